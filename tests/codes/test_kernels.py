"""That the right instructions are in the machine code, and that every kernel gives the same."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir
from numba import types

from iom.codes import _kernels as backend
from iom.codes import distances
from iom.codes._kernels import compiled as kernels
from iom.codes._kernels import portable
from iom.codes.packing import pack
from iom.errors import ConfigError

FEATURES = llvm.get_host_cpu_features() if sys.platform == "linux" else {}
X86 = llvm.get_default_triple().startswith(("x86_64", "amd64"))


NAMES = ("paired", "one query", "nearest to one", "all pairs", "nearest to many")
SCANS = ("scan for one", "scan for many")
ASSEMBLY = """
import json
from iom.codes._kernels import compiled as kernels
one, many = {"queries": 1, "rows": 1000}, {"queries": 64, "rows": 1000}
made = [
    kernels.paired_kernel(3, 8),
    kernels.table_kernel(3, 8, **one),
    kernels.nearest_kernel(3, 8, **one),
    kernels.table_kernel(3, 8, **many),
    kernels.nearest_kernel(3, 8, **many),
    kernels.scan_kernel(4, queries=1),
    kernels.scan_kernel(4, queries=64),
]
print(json.dumps(["".join(kernel.inspect_asm().values()) for kernel in made]))
"""


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Machine code by name, of kernels of 512x8 codes; of a stored kernel numba shows none."""
    done = run(ASSEMBLY, NUMBA_CACHE_DIR=str(tmp_path_factory.mktemp("numba")))
    assert not done.returncode, done.stderr
    return dict(zip(NAMES + SCANS, json.loads(done.stdout), strict=True))


@pytest.mark.skipif(not FEATURES.get("avx512vpopcntdq"), reason="the CPU has no AVX512_VPOPCNTDQ")
@pytest.mark.parametrize("name", NAMES)
def test_the_cpus_vectors_of_counts_are_used(name, assembly):
    text = assembly[name]
    assert re.search(r"\bvpopcntq\b[^\n]*%zmm", text)
    assert re.search(r"\bvpternlogq\b[^\n]*%zmm", text), "xor and or are one instruction"
    assert not re.search(r"\bpopcntq\b", text.replace("vpopcntq", "")), "a loop word by word"


@pytest.mark.skipif(not FEATURES.get("avx512vpopcntdq"), reason="the CPU has no AVX512_VPOPCNTDQ")
@pytest.mark.parametrize("name", ["all pairs", "nearest to many"])
def test_many_queries_share_what_is_loaded_and_summed(name, assembly):
    """Sixteen rows and two queries a block: registers hold the queries, one tree sums the rows."""
    text = assembly[name]
    counts = len(re.findall(r"\bvpopcntq\b", text))
    pairs = kernels.block_rows(8) * (kernels.QUERIES + 1)  # and once more for an odd query
    assert counts == pairs
    loads = len(re.findall(r"\bvmovdqu64\b[^\n]*\(%r[^\n]*%zmm", text))
    assert loads <= 3 * pairs, "the gallery's rows are loaded once for all queries of a block"
    assert re.search(r"\bvpunpck[lh]qdq\b[^\n]*%zmm", text)


@pytest.mark.skipif(kernels.shuffles() != "vpermb", reason="the CPU has no AVX512_VBMI and AVX512_VNNI")
@pytest.mark.parametrize(("name", "queries"), [*zip(SCANS, (1, kernels.SCAN_QUERIES), strict=True)])
def test_a_scan_looks_up_64_entries_and_adds_four_by_one_instruction(name, queries, assembly):
    """For each word, query and 16 codes: two look-ups and a sum; one query of a rest is compiled beside a group."""
    text = assembly[name]
    expected = 4 * queries + (4 if queries > 1 else 0)
    assert len(re.findall(r"\bvpermb\b[^\n]*%zmm", text)) >= 2 * expected
    sums = len(re.findall(r"\bvpdpbusd\b[^\n]*%zmm", text))
    assert sums >= expected
    assert len(re.findall(r"\bvpermb\b", text)) == 2 * sums
    assert bool(re.search(r"\bprefetch", text)), "one query is bound by memory"


X86_64, ARM_64 = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
BYTE_SHUFFLES = {
    "vpermb": (X86_64, "+avx512vbmi,+avx512vnni,+avx512bw", r"vpermb\b[^\n]*zmm"),
    "vpshufb 512": (X86_64, "+avx512bw", r"vpshufb\b[^\n]*zmm"),
    "vpshufb": (X86_64, "+avx2", r"vpshufb\b[^\n]*ymm"),
    "pshufb": (X86_64, "+ssse3", r"\bpshufb\b[^\n]*xmm"),
    "tbl": (ARM_64, "+neon", r"\btbl\b"),
}


def test_every_byte_shuffle_is_compiled_somewhere():
    assert list(BYTE_SHUFFLES) == list(kernels.SHUFFLES)


@pytest.mark.parametrize("shuffle", BYTE_SHUFFLES)
def test_byte_shuffles_are_compiled_for_their_cpus(shuffle):
    """Also for those that this machine has not; what they compute is compared where they can run (`test_scan.py`)."""
    triple, features, instruction = BYTE_SHUFFLES[shuffle]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    literals = [types.literal(1), types.literal(shuffle)]
    signature, generate = kernels._candidates._defn(None, *(types.uint64,) * 6, *literals)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 6), "scan")
    builder = ir.IRBuilder(function.append_basic_block())
    generate(SimpleNamespace(get_dummy_value=lambda: None), builder, signature, list(function.args))
    builder.ret_void()
    machine = llvm.Target.from_triple(triple).create_target_machine(features=features, opt=3)
    text = machine.emit_assembly(llvm.parse_assembly(str(module)))
    assert len(re.findall(instruction, text)) >= 8  # two look-ups for 64 codes, 16 at a time


PROGRAM = """
import re, sys
from iom.codes._kernels import compiled as kernels
text = "".join(kernels.nearest_kernel(3, 8, queries=64, rows=1000).inspect_asm().values())
print(bool(re.search(r"vpshufb[^\\n]*%ymm", text)), bool(re.search(r"%zmm", text)))
import numpy as np
from iom.codes.distances import nearest
from iom.codes.packing import pack
codes = np.random.default_rng(1).integers(0, 8, (50, 512))
print(nearest(pack(codes[:3], 8), pack(codes, 8), 2).rows[:, 0].tolist())
text = "".join(kernels.scan_kernel(4, queries=64).inspect_asm().values())
print(kernels.shuffles(), bool(re.search(r"vpshufb[^\\n]*%ymm", text)), bool(re.search(r"%zmm", text)))
"""


@pytest.mark.skipif(not (X86 and FEATURES.get("avx2")), reason="the CPU has no AVX2 to compile for")
def test_a_cpu_with_avx2_only_counts_by_shuffles_of_nibbles(tmp_path):
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+popcnt,+sse4.2,+ssse3",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True False", "[0, 1, 2]", "vpshufb True False"]


shapes = {
    "code_length": st.one_of(st.integers(1, 64), st.sampled_from([150, 512])),
    "alphabet_size": st.sampled_from([2, 8]),
    "queries": st.integers(1, 5),
    "rows": st.integers(1, 70),
    "seed": st.integers(0, 2**32 - 1),
    "threads": st.integers(1, 3),
}


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 1), **shapes)
def test_portable_and_compiled_kernels_give_the_same(share, code_length, alphabet_size, queries, rows, seed, threads):
    generator = np.random.default_rng(seed)
    origin = generator.integers(0, alphabet_size, (queries + rows, code_length))
    changed = generator.random(origin.shape) < 0.3
    codes = pack(np.where(changed, origin, origin[:1]), alphabet_size)
    probes, gallery = codes[:queries], codes[queries:]
    k = 1 + int(share * (rows - 1))

    def everything():
        few = min(queries, rows)
        return (
            distances.paired(probes[:few], gallery[:few], threads=threads),
            distances.all_pairs(probes, gallery, threads=threads),
            distances.all_pairs(gallery, probes, threads=threads),
            *distances.nearest(probes, gallery, k, threads=threads),
            *distances.within(probes[:1], gallery, code_length * share, threads=threads),
        )

    compiled = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "kernels", lambda words: portable)
        for one, other in zip(compiled, everything(), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_kernels_are_chosen_once_when_codes_are_first_compared():
    program = (
        "import os, sys, numpy as np\n"
        "from iom.codes import _kernels as backend, distances\n"
        "from iom.codes.packing import pack\n"
        "codes = pack(np.zeros((2, 9), int), 4)\n"
        "print(any(name in sys.modules for name in backend.BACKENDS.values()))\n"
        "distances.all_pairs(codes, codes)\n"
        "os.environ['IOM_KERNELS'] = 'compiled'\n"
        "distances.all_pairs(codes, codes)\n"
        "print(backend.kernels().__name__, 'numba' in sys.modules)\n"
    )
    done = run(program, IOM_KERNELS="portable")
    assert done.stdout.split() == ["False", "iom.codes._kernels.portable", "False"]
    assert backend.kernels() is kernels


def test_where_numba_does_not_work_the_portable_kernels_are_taken_and_a_warning_says_so(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('no numba for this machine')\n")
    program = (
        "import sys, warnings\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n"
        "    from iom.codes import _kernels as backend\n"
        "    name = backend.kernels().__name__.rpartition('.')[2]\n"
        "told = [each.message for each in found if each.category is RuntimeWarning]\n"
        "print(name, *told)\n"
    )
    done = run(program, IOM_KERNELS="")
    assert done.stdout.startswith("portable codes are compared without numba"), done.stderr
    assert "no numba for this machine" in done.stdout


def test_without_numba_the_portable_kernels_are_taken():
    program = (
        "import sys\n"
        "sys.modules['numba'] = None\n"
        "from iom.codes import _kernels as backend\n"
        "print(backend.kernels().__name__.rpartition('.')[2])\n"
    )
    done = run(program, IOM_KERNELS="")
    assert (done.stdout, done.stderr) == ("portable\n", "")


def test_few_codes_do_not_wait_for_numba():
    program = (
        "import sys, numpy as np\n"
        "from iom.codes import _kernels as backend, distances\n"
        "from iom.codes.packing import pack\n"
        "codes = pack(np.zeros((200, 64), int), 2)\n"
        "distances.paired(codes, codes), distances.nearest(codes, codes, 1)\n"
        "found = distances.all_pairs(codes, codes)\n"
        "print('numba' in sys.modules)\n"
        "backend.FEW_WORDS = 200 * 200\n"
        "again = distances.all_pairs(codes, codes)\n"
        "print('numba' in sys.modules, bool((again == found).all()))\n"
    )
    assert run(program, IOM_KERNELS="").stdout.split() == ["False", "True", "True"]


def test_a_choice_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="compiled, portable"):
        backend.choose("gpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.choose("portable") is portable
        assert backend.choose("") is kernels
