#!/bin/sh
# Upload with nothing but curl, openssl and coreutils, in chunks that are checked:
#   sh curl.sh big.bin http://127.0.0.1:8000/
# Set UPLOAD_KIT_TOKEN for a server that wants one.
set -eu
file=$1
url=${2%/}
size=$(wc -c <"$file" | tr -d ' ')
chunk_size=1048576
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

ask() { # ask METHOD PATH [MORE...]
    method=$1 path=$2
    shift 2
    curl --fail-with-body --silent --show-error --request "$method" \
        --header "Authorization: Bearer ${UPLOAD_KIT_TOKEN:-none}" "$@" "$url/$path"
}

# Begin: the answer has the ID.
name=$(basename "$file")
id=$(ask POST upload/resumable --json \
    "{\"name\": \"$name\", \"size\": $size, \"chunk_size\": $chunk_size}" |
    sed 's/.*"session_id": *"\([0-9a-f]*\)".*/\1/')
echo "Upload $id"

# Send: in any order, each as often as it takes, --retry does the rest.
split --bytes=$chunk_size --numeric-suffixes --suffix-length=6 "$file" "$parts/"
index=0
for part in "$parts"/*; do
    digest=$(openssl dgst -sha256 -binary "$part" | base64)
    ask PUT "upload/resumable/$id/chunks/$index" --retry 5 --data-binary "@$part" \
        --header "Content-Type: application/octet-stream" \
        --header "Content-Digest: sha-256=:$digest:" >/dev/null
    index=$((index + 1))
done
echo "$index chunks"

# Publish: the server compares the digest of the whole.
sha256=$(sha256sum "$file" | cut -d ' ' -f 1)
ask POST "upload/resumable/$id/complete" --json "{\"sha256\": \"$sha256\"}"
echo
