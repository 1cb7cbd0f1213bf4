"""What Prometheus scrapes: the server's own instruments and the gauges of its runs."""
