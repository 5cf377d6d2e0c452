"""What `socksclient.httpx` and `socksclient.httpx2` share."""
