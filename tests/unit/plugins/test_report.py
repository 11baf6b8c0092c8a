"""The report, as users read it in the log."""

from __future__ import annotations

from multigpu.multigpu_core.plugins import PackState, PluginRecord, TargetPack, report_json, report_lines

RECORDS = [
    PluginRecord("planner", "built in"),
    PluginRecord("gguf", "built in", "0.1.0", absent=("A", "B")),
    PluginRecord("some", "their-package", "2.0", nodes=("X", "Y"), taken=("KSampler",), absent=("Z",)),
    PluginRecord("here", "built in", "0.1.0", nodes=("X",), targets=(TargetPack("ComfyUI-GGUF", "2.0"),)),
    PluginRecord("author's", "their-package", nodes=("X", "Y")),
    *(
        PluginRecord(state.value, "built in", absent=("A",), targets=(TargetPack("ComfyUI-GGUF", "2.0", state),))
        for state in PackState
    ),
    PluginRecord("idle", "a file", names_no_loaders=True),
    PluginRecord("off", "a file", enabled=False, why_not="Switched off."),
    PluginRecord("bad", "a file", why_not="ImportError: no", traceback="Traceback …"),
]


def test_nodes_have_one_line_absent_packs_another_and_what_needs_a_look_one_each() -> None:
    assert report_lines(RECORDS) == [
        "  nodes: ComfyUI-GGUF 2.0 1; author's 2",
        "  not installed: ComfyUI-GGUF 2.0",
        "  gguf           no nodes: none of its loaders is here (built in 0.1.0)",
        "  some           2 nodes, taken by others: KSampler, not here: Z (their-package 2.0)",
        "  loaded         no nodes: ComfyUI-GGUF 2.0 has none of its loaders (built in)",
        "  disabled       no nodes: ComfyUI-GGUF 2.0 is disabled (built in)",
        "  import failed  no nodes: ComfyUI-GGUF 2.0 could not be imported (built in)",
        "  present        no nodes: ComfyUI-GGUF 2.0 is there (built in)",
        "  idle           names no loaders (a file)",
        "  off            off (a file)",
        "  bad            FAILED: ImportError: no (a file)",
    ]


def test_the_json_has_everything() -> None:
    records = {record["name"]: record for record in report_json(RECORDS)}
    assert records["gguf"]["absent"] == ("A", "B") and records["gguf"]["works"]
    assert not records["bad"]["works"] and records["bad"]["traceback"]
