"""From device statistics to rows for the server: the ring buffer, the flight recorder and clipping detection. No
network here.
"""
