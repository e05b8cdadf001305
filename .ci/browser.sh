#!/usr/bin/env bash
# Checks the reports of the evaluation in headless Chromium. As root on Debian, it installs Chromium first.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

has_browser() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; }

if ! has_browser && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing chromium and chromium-driver"
    install="apt-get install -y -qq --no-install-recommends chromium chromium-driver"
    # If this fails, the package lists may be missing or outdated.
    $install >/dev/null 2>&1 || { apt-get update -qq && $install; } >/dev/null
fi
if ! has_browser; then
    echo "Skipped the check of reports in a browser: chromium or chromedriver was not found"
    exit 0
fi
.venv/bin/python -m tests.report_in_browser "$@"
