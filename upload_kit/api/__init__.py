"""Uploads from plain code: started, watched, waited for, looked up afterwards."""
