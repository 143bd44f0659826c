"""What a notebook sees of uploads: panels, cards, DataFrames, magics."""
