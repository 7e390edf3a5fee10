"""The locks that ship with kt: whole, for every Python, in batches."""

from __future__ import annotations

from kt_cli.engines.environments import batches, locked, specs


def facts(minor: int) -> dict[str, str]:
    return {"python_full_version": f"3.{minor}.1", "python_version": f"3.{minor}"}


def test_every_lock_names_each_package_once_for_every_python() -> None:
    for spec in specs():
        for minor in (11, 12, 13):
            packages = locked(spec, facts(minor)).packages
            names = [p.name for p in packages]
            assert len(names) == len(set(names)) > 30, spec.name
            assert "torch" in names and all(p.bytes > 0 and p.version for p in packages)


def test_the_locks_pin_one_release_of_kt_kernel() -> None:
    versions = {
        (spec.name, p.name): p.version
        for spec in specs()
        for p in locked(spec, facts(12)).packages
        if p.name in ("kt-kernel", "sglang-kt", "ktransformers", "torch", "torchaudio")
    }
    for engine in ("sglang", "llamafactory"):
        assert versions[engine, "kt-kernel"] == versions[engine, "ktransformers"] == "0.7.2"
        assert versions[engine, "torch"] == versions[engine, "torchaudio"] == "2.9.1"
    assert versions["sglang", "sglang-kt"] == "0.7.2"


def test_batches_keep_order_and_stay_below_the_limit() -> None:
    for spec in specs():
        packages = locked(spec, facts(11)).packages
        groups = list(batches(packages, 50_000_000))
        assert [p for group in groups for p in group] == list(packages)
        assert all(len(g) == 1 or sum(p.bytes for p in g) <= 50_000_000 for g in groups)
