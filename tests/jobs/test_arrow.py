import subprocess
import sys

import pytest

from tests.local_runs import ROOT

SCRIPT = """
import sys
from jobs.arrow import do_without_pandas
do_without_pandas()
import pyarrow as pa
table = pa.Table.from_pylist([{"a": 1}, {"a": 2}])
assert "pandas" not in sys.modules
import pandas as pd
assert table.to_pandas().equals(pd.DataFrame({"a": [1, 2]}))
assert pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]})).equals(table)
"""


def test_pyarrow_leaves_pandas_alone_until_something_needs_it() -> None:
    pytest.importorskip("pandas")
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
