"""Restricted unpickling of untrusted files: plain data, and NumPy's arrays of numbers, texts or objects, and scalars.

A pickle is a program. Two formats of this field are pickles all the same: InsightFace's `.bin` verification sets and
the MMdnn `.npy` dictionary of weights. The protection:

- every global is looked up in a table of those that arrays need; there is no import;
- only the opcodes that plain data need are known: no persistent ids, no extension registry, no instances, and BUILD
  works on the stand-ins of this file alone, so that a pickle cannot set attributes of an admitted callable;
- the size of the result is bounded: opcodes, and bytes of arrays and texts in proportion to the file;
- NumPy's own `__setstate__` never sees foreign state (a crafted dtype state makes it read bytes as object pointers):
  dtype, shape and bytes are checked here, and the array is built by `frombuffer`.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np

from iom._untrusted import check_inflated_size, one_line
from iom.errors import DataError

_MAX_DIMENSIONS = 32
MAX_OPCODES = 1_000_000
"""A verification set of a hundred thousand pairs takes two thirds of it."""
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5}|O[48]?")

# `pickle._Unpickler` is the documented algorithm in Python. Its memo is a dictionary, where that of the compiled one is
# an array: there a nine-byte file can ask for gigabytes. Its dispatch table can be cut down.
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT "
    "BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT "
    "DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD"
)


def restricted_loads(data: bytes | BinaryIO, *, source: str, encoding: str = "bytes") -> Any:
    """Unpickle plain data and arrays from bytes or a stream; `source` names the file in errors.

    `encoding` of Python 2 strings: `"bytes"` keeps them, `"latin1"` makes them `str`.
    """
    unpickler = _RestrictedUnpickler(data if isinstance(data, bytes) else data.read(), source, encoding)
    try:
        return _resolve(unpickler.load(), {})
    except DataError:
        raise
    # A damaged pickle fails in any way at all: whatever an opcode does with wrong operands.
    except Exception as error:
        raise DataError(f"{source}: damaged pickle: {one_line(error)}") from error


class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
    """The unpickler of the standard library without imports and without instances."""

    stack: list[Any]
    read: Callable[[int], bytes]

    def __init__(self, data: bytes, source: str, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._source = source
        self._size, self._made = len(data), 0
        self.dispatch = _Counted(type(self).dispatch)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """The admitted callable of that name; nothing is ever imported."""
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        raise DataError(
            f"{self._source}: refused: this pickle asks for '{module}.{name}', which plain data do "
            "not need; nothing was run. Get the data in another format, from a source you trust"
        )

    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _PickledDtype | _PickledArray):
            raise DataError(
                f"{self._source}: refused: this pickle sets the state of a '{type(target).__name__}'; nothing was run"
            )
        target.set_state(state)
        self._count(target)

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments)
        self._count(self.stack[-1])

    def _load_bytearray8(self) -> None:
        """Read the bytes before memory is reserved; the library reserves as much as the file announces."""
        length = int.from_bytes(self.read(8), "little")
        data = self.read(min(length, self._size + 1))
        if len(data) != length:
            raise pickle.UnpicklingError(f"{length} bytes announced, {len(data)} are there")
        self.stack.append(bytearray(data))

    def _count(self, made: Any) -> None:
        """Bound the bytes made: a few opcodes can copy those of a large array again and again."""
        if isinstance(made, _PickledArray) and made.array is not None:
            made = made.array
        self._made += made.nbytes if isinstance(made, np.ndarray) else 0
        self._made += len(made) if isinstance(made, bytes | str) else 0
        check_inflated_size(self._made, self._size)

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _OPCODES.split())
    }
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8


class _Counted(dict[int, Callable[..., None]]):
    """A table of opcodes that may be asked `MAX_OPCODES` times."""

    def __init__(self, table: dict[int, Callable[..., None]]) -> None:
        super().__init__(table)
        self.left = MAX_OPCODES

    def __getitem__(self, code: int) -> Callable[..., None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"more than {MAX_OPCODES} opcodes")
        return super().__getitem__(code)


class _PickledDtype:
    """Stand-in for `numpy.dtype` while a pickle is read."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, spec: str | bytes, *_: object) -> None:
        self._spec = _text(spec)
        self._order = "|"
        if not _DTYPE.fullmatch(self._spec):
            raise ValueError(f"expected a plain dtype, received {self._spec[:40]!r}")

    def set_state(self, state: Any) -> None:
        """Take the byte order; fields, sub-arrays and flags are refused or ignored."""
        _, order, subdtype, names, fields = state[:5]
        if subdtype is not None or names is not None or fields is not None:
            raise ValueError("expected a plain dtype, received a structured one")
        self._order = _text(order)
        if self._order not in ("<", ">", "|", "="):
            raise ValueError(f"expected a byte order, received {self._order[:10]!r}")

    def resolve(self) -> np.dtype[Any]:
        """The dtype that is meant."""
        if self._spec.startswith("O"):
            return np.dtype(object)
        return np.dtype(self._spec).newbyteorder(self._order if self._order != "|" else "=")  # type: ignore[arg-type]


class _PickledArray:
    """Stand-in for `numpy.ndarray` while a pickle is read."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        """Build the array from (version, shape, dtype, fortran order, content)."""
        shape, dtype, fortran, content = state[-4:]
        self.array = _build(content, dtype, shape, "F" if fortran else "C")


def _text(value: Any) -> str:
    """ASCII text that a Python 2 pickle may give as bytes."""
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise TypeError(f"expected text, received {type(value).__name__}")
    return value


def _build(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """Array of `shape` from raw bytes, or from a list for an array of objects."""
    if not isinstance(dtype, _PickledDtype):
        raise TypeError(f"expected a dtype, received {type(dtype).__name__}")
    shape = tuple(int(side) for side in shape)
    if len(shape) > _MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise ValueError(f"expected an array shape, received {shape[:4]}")
    if order not in ("C", "F"):
        raise ValueError(f"expected the order C or F, received {str(order)[:10]!r}")
    resolved = dtype.resolve()
    if resolved.hasobject:
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise ValueError(f"expected a list of {math.prod(shape)} objects")
        flat = np.empty(len(content), dtype=object)
        for index, item in enumerate(content):
            flat[index] = item
        return flat.reshape(shape, order=order)
    # A Python 2 string that was read as latin1 holds the same bytes.
    raw = content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))
    if len(raw) != math.prod(shape) * resolved.itemsize:
        raise ValueError(
            f"an array {shape} of {resolved} needs {math.prod(shape) * resolved.itemsize} bytes, received {len(raw)}"
        )
    return np.frombuffer(raw, dtype=resolved).reshape(shape, order=order).copy()


def _scalar(dtype: Any, content: Any) -> Any:
    return _build(content, dtype, (), "C")[()]


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """Array of protocol 5; in order K, `shape` is that of the memory, and `axes` the transposition after it."""
    array = _PickledArray()
    is_transposed = _text(order) == "K" and axes is not None
    built = _build(content, dtype, shape, "C" if is_transposed else _text(order))
    array.array = built.transpose([int(axis) for axis in axes]) if is_transposed else built
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode` as protocol 2 uses it for bytes; other codecs are refused."""
    if _text(encoding) != "latin1":
        raise ValueError(f"expected the codec latin1, received {encoding!r}")
    return text if isinstance(text, bytes) else str(text).encode("latin1")


def _resolve(value: Any, seen: dict[int, Any]) -> Any:
    """Replace the stand-ins in nested containers; lists and dictionaries are changed in place."""
    if isinstance(value, _PickledDtype):
        return value.resolve()
    if not isinstance(value, _PickledArray | np.ndarray | list | dict | tuple):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _PickledArray):
        if value.array is None:
            raise ValueError("an array without content")
        seen[id(value)] = value.array
        _resolve(value.array, seen)
        return value.array
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        for index in np.ndindex(value.shape) if value.dtype.hasobject else ():
            value[index] = _resolve(value[index], seen)
    elif isinstance(value, list):
        value[:] = [_resolve(item, seen) for item in value]
    elif isinstance(value, dict):
        value.update({key: _resolve(item, seen) for key, item in value.items()})
    else:
        seen[id(value)] = tuple(_resolve(item, seen) for item in value)
    return seen[id(value)]


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",  # so protocols 0 to 2 write the empty byte string
    ("__builtin__", "bytes"): lambda: b"",
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _PickledArray
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _scalar
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer
