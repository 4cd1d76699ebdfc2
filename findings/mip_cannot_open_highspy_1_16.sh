#!/usr/bin/env bash
# mip 2.0.0 with highspy 1.16.0: the extra `mip[highs]` installs a pair that cannot solve.
# Guess: `mip.Model(solver_name=HIGHS)` works, as the extra asks for highspy >= 1.9.
# Seen: FileNotFoundError "HiGHS not found. Please install the `highspy` package" with highspy installed, because its extension
# module no longer exports the C functions that mip opens; with highspy 1.15.1 the same model is OPTIMAL.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat > "$work/solve.py" <<'PY'
import mip

try:
    model = mip.Model(sense=mip.MAXIMIZE, solver_name=mip.HIGHS)
    model.verbose = 0
    x = model.add_var(var_type=mip.BINARY, obj=1.0)
    model += x <= 1
    print(model.optimize().name)
except FileNotFoundError as error:
    print("FileNotFoundError", "highspy" in str(error))
PY
for version in 1.16.0 1.15.1; do
    "$work/venv/bin/python" -m pip install --quiet mip==2.0.0 highspy==$version numpy==2.4.6
    got=$("$work/venv/bin/python" "$work/solve.py" 2> /dev/null | tail -n 1)
    echo "highspy $version: $got"
    case "$version $got" in
        "1.16.0 FileNotFoundError True" | "1.15.1 OPTIMAL") ;;
        *) echo "changed"; exit 1 ;;
    esac
done
