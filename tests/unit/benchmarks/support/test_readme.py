"""The claim and the table of the README."""

from benchmarks.support.readme import claim, gains_table


def _row(source: str) -> dict:
    times = {"padded": 0.8, "packed": 1.0, "method": 2.0}  # speed-ups over packed
    flops = {"padded": 5.0, "packed": 4.0, "method": 1.0}
    accuracy = {"padded": 0.9, "packed": 0.9, "method": 0.89}
    systems = {
        name: {
            "metrics": {"accuracy": accuracy[name]},
            "flops_per_text": flops[name],
            "latency_ms": {"32": {"speedup": times[name]}},
        }
        for name in times
    }
    return {"data": {"source": source, "rows": 5000}, "max_length": 256, "systems": systems}


def test_the_claim_is_that_of_the_newest_row():
    assert claim([_row("x/sst2/dev.jsonl.gz"), _row("x/imdb/test.jsonl.gz")]) == (
        "**LTP on imdb test, 5,000 texts, batches of 32, one CPU thread: 4.0x fewer FLOPs and 2.0x "
        "faster than the same model without padding (2.5x faster than with padding); accuracy "
        "0.8900, dense 0.9000.**\n"
    )


def test_the_table_has_one_line_per_data_set():
    table = gains_table([_row("x/sst2/dev.jsonl.gz"), _row("x/imdb/test.jsonl.gz")]).splitlines()
    assert table[2:4] == [
        f"| {name}, 5,000 texts | at most 256 | 0.9000 | 0.8900 | 4.0x fewer | 2.0x faster |"
        " 2.5x faster |"
        for name in ("sst2 dev", "imdb test")
    ]
