#!/usr/bin/env bash
# Looks the pinned packages up among known vulnerabilities: `make audit`.
#
# Ends with 0 when something was audited and nothing found, 1 when something was found, and 3 when
# nothing could be audited, which is not the same as clean. pip-audit lives in an environment of its
# own, as it wants another pip than ours.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
AUDIT=.cache/audit
REPORT="$AUDIT/report.json"

not_audited() {
    echo "NOT AUDITED: $1" >&2
    exit 3
}

if [ ! -x "$AUDIT/bin/pip-audit" ]; then
    "$PYTHON" -m venv "$AUDIT"
    "$AUDIT/bin/python" -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9,<3" \
        2> "$AUDIT/messages" || not_audited "pip-audit cannot be installed"
fi

rm -f "$REPORT"
"$AUDIT/bin/pip-audit" --requirement constraints.txt --no-deps --disable-pip \
    --progress-spinner off --timeout 15 "$@" --format json --output "$REPORT" \
    > "$AUDIT/messages" 2>&1 || true

[ -s "$REPORT" ] || { tail -n 3 "$AUDIT/messages" >&2; not_audited "the service cannot be reached"; }

"$PYTHON" - "$REPORT" <<'SUMMARY'
import json
import sys

packages = json.load(open(sys.argv[1], encoding="utf-8"))["dependencies"]
looked_up = [one for one in packages if "skip_reason" not in one]
found = [(one, flaw) for one in looked_up for flaw in one["vulns"]]
for one, flaw in found:
    fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
    print(f"{one['name']} {one['version']}: {flaw['id']}; fixed in {fixed}")
skipped = [one["name"] for one in packages if "skip_reason" in one]
if not looked_up:
    print(f"NOT AUDITED: none of {len(packages)} packages could be looked up", file=sys.stderr)
    sys.exit(3)
if skipped:
    print(f"not looked up: {', '.join(skipped)}")
print(f"{len(looked_up)} packages were looked up, {len(found)} vulnerabilities found")
sys.exit(1 if found else 0)
SUMMARY
