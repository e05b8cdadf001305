#!/usr/bin/env bash
# Builds the documentation site and checks that its pages load nothing from the network.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
./docs.sh
if grep -rnEo --include='*.html' '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//[^"]*' site ||
    grep -rnEo --include='*.css' '(url\(|@import)[ "'\'']*(https?:)?//[^)]*' site; then
    echo "The pages above would load files from the network. Add these files to the site instead."
    exit 1
fi
