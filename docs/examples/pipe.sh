#!/bin/sh
# Upload what a program writes, without a file in between:
#   sh pipe.sh data http://127.0.0.1:8000/
# A stream can be read only once, so it is tried again chunk by chunk, but not resumed by
# another process.
set -eu
folder=$1
url=$2
tar --create --file - "$folder" | upload-kit put - "$url" --name "$(basename "$folder").tar" --json |
    tail -n 1
