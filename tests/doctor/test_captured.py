"""On each captured machine doctor names what is wrong, how bad it is, and the cure."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from kt_cli.doctor import Finding, broken, check, drawing, report
from tests.doctor.captured import GOLDEN, facts_of, findings_of
from tests.probe import trees

# machine: the findings that are not ok or info, as (name, severity, a part of the cure)
EXPECTED = {
    "good-sglang": [],
    "good-dimms": [],
    "bad-no-driver": [("gpu-driver", "error", "install or reload the NVIDIA driver")],
    "bad-sigill": [("engine-kt_kernel", "error", "export KT_KERNEL_CPU_VARIANT=avx2")],
    "bad-kt-kernel": [("engine-kt_kernel", "error", "--force-reinstall kt-kernel")],
    "bad-old-glibc": [
        ("no-engine", "error", "pip install 'kt-cli[embedded]'"),
        ("glibc-kt_kernel", "warning", "newer distribution"),
        ("glibc-torch", "error", "newer distribution"),
    ],
    "bad-memlock": [
        ("memlock", "warning", "/etc/security/limits.conf"),
        ("open-files", "warning", "nofile"),
    ],
    "bad-wrong-torch": [
        ("cuda-version", "error", "update the NVIDIA driver"),
        ("sgl-kernel", "error", "ktransformers[sglang]"),
        ("pin-sglang-kt-torch", "error", "pip install 'torch==2.9.1'"),
    ],
    "bad-old-packages": [
        ("transformers-version", "error", "'transformers>=5.6,<5.24'"),
        ("old-ktransformers", "warning", "install --upgrade ktransformers"),
        ("old-kt-kernel-cuda", "warning", "uninstall kt-kernel-cuda"),
    ],
    "bad-shadowed": [("kt-shadowed", "warning", "`kt-cli`")],
    "bad-dimms": [
        ("memory-channels", "warning", "every channel"),
        ("memory-speed", "warning", "XMP"),
    ],
    "bad-numa-balancing": [("numa-balancing", "warning", "sysctl -w kernel.numa_balancing=0")],
    "bad-mbind": [("shm", "warning", "--shm-size"), ("memory-binding", "warning", "SYS_NICE")],
    "bad-full-disk": [
        ("disk-full", "error", "KT_HOME"),
        ("disk-room", "warning", "HF_HOME"),
        ("disk-speed", "warning", "NVMe"),
    ],
    "bad-turing": [("gpu-0", "error", "Ampere")],
    "bad-carriers": [("carriers", "error", "'ktransformers[sglang]==0.7.2'")],
    "bad-blackwell": [("torch-architecture", "error", "install a torch")],
    "bad-overbooked": [("stolen-time", "warning", "plans use 32 threads; ")],
    "bad-amx-unused": [
        ("kernels-variant", "warning", "KT_ISA"),
        ("kt-kernel-variant", "warning", "unset KT_KERNEL_CPU_VARIANT"),
    ],
    "bad-slow-settings": [
        ("huge-pages", "warning", "echo madvise"),
        ("governor", "warning", "echo performance"),
        ("pcie-width-0", "warning", "slot"),
        ("torch-cpu", "warning", "torch==2.13.0"),
        ("kernels", "warning", "C++ compiler"),
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_names_what_is_wrong_and_the_cure(name: str, forest: trees.Forest) -> None:
    findings = findings_of(name, forest)
    bad = [f for f in findings if f.severity in ("error", "warning")]
    assert [(f.name, f.severity) for f in bad] == [(n, s) for n, s, _ in EXPECTED[name]]
    for finding, (_, _, cure) in zip(bad, EXPECTED[name], strict=True):
        assert cure in finding.fix
        assert finding.why
    assert broken(findings) == any(s == "error" for _, s, _ in EXPECTED[name])


def test_every_broken_machine_is_expected_to_be() -> None:
    assert {n for n in trees.names() if n.startswith(("bad-", "good-"))} == set(EXPECTED)


@pytest.mark.parametrize("name", trees.names())
def test_the_report_is_the_golden_one(name: str, forest: trees.Forest) -> None:
    machine, facts = facts_of(name, forest)
    findings = check(machine, facts)
    shown = [
        *drawing.draw(machine),
        *(line.text for line in report.lines(findings)),
        "",
        report.summary(findings),
    ]
    text = "\n".join([*shown, "exit 6" if broken(findings) else "exit 0", ""])
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("KT_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def every_finding(forest: trees.Forest) -> list[Finding]:
    return [f for n in trees.names() for f in findings_of(n, forest)]


def test_messages_follow_the_style(forest: trees.Forest) -> None:
    for finding in every_finding(forest):
        for text in (finding.what, finding.why, finding.fix):
            assert not text.endswith("."), text
            assert text.count("`") % 2 == 0, text
        assert finding.topic
        if finding.severity in ("error", "warning"):
            assert finding.why
        if finding.severity == "error":
            assert finding.fix


def test_only_kernel_settings_are_mended_unattended(forest: trees.Forest) -> None:
    safe = {f.name for f in every_finding(forest) if f.repair}
    assert safe == {"numa-balancing", "huge-pages", "governor"}


def test_kernels_in_a_package_of_their_own_need_no_carriers(forest: trees.Forest) -> None:
    machine, facts = facts_of("bad-carriers", forest)
    packages = tuple(
        replace(p, versions={**p.versions, "sglang-kernel": "0.4.2"}) for p in facts.packages
    )
    names = {f.name for f in check(machine, replace(facts, packages=packages))}
    assert "carriers" not in names
