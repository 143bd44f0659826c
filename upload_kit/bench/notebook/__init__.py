"""What uploading from a notebook costs, measured in a real kernel."""
