"""Measuring upload_kit: the cases, the link they run over, the run and its report."""
