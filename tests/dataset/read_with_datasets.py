"""``python -m tests.dataset.read_with_datasets CACHE TAR...``: a JSON line for each sample that is read."""

import hashlib
import json
import sys

import datasets


def main() -> None:
    datasets.disable_progress_bars()
    cache, *tars = sys.argv[1:]
    read = datasets.load_dataset("webdataset", data_files={"train": tars}, split="train", cache_dir=cache)
    if "mp4" in read.column_names:
        read = read.cast_column("mp4", datasets.Video(decode=False))
    for row in read:
        content = row["mp4"]["bytes"] if "mp4" in row else b""
        print(json.dumps([row["__key__"], hashlib.sha256(content).hexdigest(), row.get("json", {}).get("key")]))


if __name__ == "__main__":
    main()
