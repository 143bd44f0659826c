"""Places that files go to, one adapter a file, behind the port in `base.py`."""
