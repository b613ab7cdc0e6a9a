"""The Huffman code of header compression (RFC 7541 section 5.2 and appendix B).

The code is canonical: sorted by length and then by symbol, each code is its predecessor plus one,
shifted left where the length grows. So the lengths alone are the table, and the bit patterns
are computed from them.
"""

from __future__ import annotations

from typing import Final

_EOS: Final = 256

# fmt: off
# Code length in bits -> the symbols that have it (RFC 7541 appendix B); 256 is the end of string.
_SYMBOLS_BY_LENGTH: Final[dict[int, tuple[int, ...]]] = {
    5: (48, 49, 50, 97, 99, 101, 105, 111, 115, 116),
    6: (
        32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65, 95, 98, 100, 102, 103,
        104, 108, 109, 110, 112, 114, 117
    ),
    7: (
        58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84,
        85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122
    ),
    8: (38, 42, 44, 59, 88, 90),
    10: (33, 34, 40, 41, 63),
    11: (39, 43, 124),
    12: (35, 62),
    13: (0, 36, 64, 91, 93, 126),
    14: (94, 125),
    15: (60, 96, 123),
    19: (92, 195, 208),
    20: (128, 130, 131, 162, 184, 194, 224, 226),
    21: (153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230),
    22: (
        129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181,
        185, 186, 187, 189, 190, 196, 198, 228, 232, 233
    ),
    23: (
        1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158,
        165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239
    ),
    24: (9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237),
    25: (199, 207, 234, 235),
    26: (192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255),
    27: (
        203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251,
        252, 253, 254
    ),
    28: (
        2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27,
        28, 29, 30, 31, 127, 220, 249
    ),
    30: (10, 13, 22, 256),
}
# fmt: on


def _canonical_codes() -> list[tuple[int, int]]:
    """Return (code, length in bits) for each symbol 0..256."""
    codes = [(0, 0)] * 257
    code = 0
    previous = 5
    for length, symbols in sorted(_SYMBOLS_BY_LENGTH.items()):
        code <<= length - previous
        previous = length
        for symbol in symbols:
            codes[symbol] = (code, length)
            code += 1
    return codes


_CODES: Final = _canonical_codes()


class _Node(dict[int, "tuple[_Node, bytes]"]):
    """An inner node of the code tree, and the memo of what each whole input byte does from here.

    ``node[byte]`` is the node reached after the eight bits and the symbols completed on the way.
    Cells are computed when first met: text uses few of the 65,536, and a full table would cost
    start-up time and memory for nothing.
    """

    __slots__ = ("branches", "may_end")

    def __init__(self, *, may_end: bool) -> None:
        super().__init__()
        # A branch is a further node, a symbol, or (while the tree is built) not there yet.
        self.branches: list[_Node | int | None] = [None, None]
        # Input may stop at a symbol's end, or after at most seven one-bits of padding.
        self.may_end = may_end

    def __missing__(self, byte: int) -> tuple[_Node, bytes]:
        node = self
        symbols = bytearray()
        for shift in (7, 6, 5, 4, 3, 2, 1, 0):
            branch = node.branches[byte >> shift & 1]
            if isinstance(branch, _Node):
                node = branch
            elif branch is None or branch == _EOS:
                raise ValueError("end-of-string symbol inside a Huffman string")
            else:
                symbols.append(branch)
                node = _ROOT
        cell = (node, bytes(symbols))
        self[byte] = cell
        return cell


def _tree() -> _Node:
    root = _Node(may_end=True)
    for symbol, (code, length) in enumerate(_CODES):
        node = root
        for depth in range(1, length):
            bit = code >> (length - depth) & 1
            branch = node.branches[bit]
            if not isinstance(branch, _Node):
                only_ones = code >> (length - depth) == (1 << depth) - 1
                branch = _Node(may_end=only_ones and depth <= 7)
                node.branches[bit] = branch
            node = branch
        node.branches[code & 1] = symbol
    return root


_ROOT: Final = _tree()


def decode(data: bytes) -> bytes:
    """Return the string that ``data`` encodes.

    Raises ValueError if the padding is not the most significant bits of the end-of-string code,
    is longer than seven bits, or if that code itself occurs.
    """
    node = _ROOT
    text = bytearray()  # joining a list of parts would take 80 bytes for each
    for byte in data:
        node, symbols = node[byte]
        text += symbols
    if not node.may_end:
        raise ValueError("invalid padding of a Huffman string")
    return bytes(text)


def encode(data: bytes) -> bytes:
    """Return the Huffman form of ``data``, padded with one-bits to whole bytes."""
    bits = 0
    size = 0
    for symbol in data:
        code, length = _CODES[symbol]
        bits = bits << length | code
        size += length
    padding = -size % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((size + padding) // 8, "big")
