"""From statistics on the device to records for the server. No network here."""
