#!/usr/bin/env bash
# Opens reports of the evaluation in headless Chromium. Debian's packages are installed where that is possible.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

has_browser() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; }

if ! has_browser && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing chromium and chromium-driver"
    install="apt-get install -y -qq --no-install-recommends chromium chromium-driver"
    # The lists of packages may be old, or not there yet.
    $install >/dev/null 2>&1 || { apt-get update -qq && $install; } >/dev/null
fi
if ! has_browser; then
    echo "Skipped: the reports are looked at in chromium, by chromedriver, and one of them was not found"
    exit 0
fi
.venv/bin/python -m tests.report_in_browser "$@"
