"""What can be uploaded, one kind a file, behind the port in `base.py`."""
