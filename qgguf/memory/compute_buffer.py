"""Bytes of scratch that llama.cpp reserves for one pass: its graph as a table of sizes, its allocator step by step.

A closed formula would have to guess how the allocator's free blocks fall; this walks the same graph in the same order
and so gives the very figure that llama.cpp reports. Pure; some milliseconds.
source  ggml-alloc.c (best fit, reuse in place), ggml-backend.cpp (copies between devices), llama-graph.cpp,
        models/qwen3.cpp and models/bert.cpp of the vendored llama.cpp
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

ALIGNMENT = 32
"""Of a CPU buffer. A GPU's is larger (CUDA: 128); against the megabytes of these tensors that is nothing."""

HOST, GPU = 0, 1

_F32, _F16, _I32, _I64 = 4, 2, 4, 8
_SIMULATED_LAYERS = 4
"""Layers are alike, and what one leaves behind the next one finds: more of them on one device change nothing."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over a model, as llama.cpp reserves memory for it.

    encoder      BERT's layout and no KV cache, else Qwen3's
    gated        the feed-forward part has a gate
    dims, queries, keys, ffn, vocab    widths in numbers: hidden state, all query heads, all KV heads, inner, output
    tokens       micro-batch
    outputs      rows that leave the last layer
    cells        KV cells
    rotation     width of the matrix that a quantised KV cache is rotated with; 0 where it is not quantised
    pooled       texts that llama.cpp pools by itself; 0 where the rows are read
    means        it pools by the mean of all rows, else by one row of each text
    host_layers, gpu_layers    the first ones on the host, the rest on the GPU
    output_on_gpu              the vocabulary projection's matrix is there
    half_copies  the GPU's attention copies a quantised cache into half precision first, as CUDA does
    """

    encoder: bool
    gated: bool
    dims: int
    queries: int
    keys: int
    ffn: int
    vocab: int
    tokens: int
    outputs: int
    cells: int
    rotation: int = 0
    pooled: int = 0
    means: bool = False
    host_layers: int = 1
    gpu_layers: int = 0
    output_on_gpu: bool = False
    half_copies: bool = False


@lru_cache(maxsize=4096)
def scratch_bytes(work: Pass) -> tuple[int, int]:
    """(bytes on the host, bytes on the GPU) that llama.cpp's allocator reserves for a pass."""
    graph = _encoder(work) if work.encoder else _decoder(work)
    return _Allocator().run(graph)


class _Tensor:
    """A tensor of the graph.

    over   parents whose place it may take: of the same layout, and the operation works in place
    root   what it is a view of
    """

    __slots__ = ("address", "held", "is_input", "n_children", "n_views", "over", "parents", "place", "root", "size")

    def __init__(
        self,
        size: int,
        parents: Sequence["_Tensor"],
        place: int,
        over: Sequence["_Tensor"] = (),
        root: "_Tensor | None" = None,
        is_input: bool = False,
    ) -> None:
        self.size, self.parents, self.place, self.over = size, list(parents), place, list(over)
        self.root, self.is_input = root, is_input
        self.n_children = self.n_views = self.address = 0
        self.held = False


class _Graph:
    """Tensors in the order in which ggml visits them: inputs, and operations."""

    def __init__(self) -> None:
        self.inputs: list[_Tensor] = []
        self.nodes: list[_Tensor] = []
        self._seen: set[int] = set()

    def input(self, size: int) -> _Tensor:
        return _Tensor(size, (), HOST, is_input=True)

    def op(self, place: int, size: int, *parents: _Tensor, over: Sequence[_Tensor] = ()) -> _Tensor:
        return _Tensor(size, parents, place, over)

    def view(self, parent: _Tensor) -> _Tensor:
        root = parent.root or parent
        return _Tensor(0, [parent], root.place, root=root)

    def expand(self, *tensors: _Tensor) -> None:
        """Take in what these need, parents first, as ggml_build_forward_expand does."""
        for tensor in tensors:
            self._visit(tensor)

    def _visit(self, tensor: _Tensor) -> None:
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        for parent in tensor.parents:
            self._visit(parent)
        (self.inputs if tensor.is_input else self.nodes).append(tensor)


def _decoder(work: Pass) -> _Graph:
    """Qwen3: norms of queries and keys, KV cache, gate; the last layer goes on with the output rows alone."""
    graph, n = _Graph(), work.tokens
    view = graph.view
    layers = _places(work)
    hidden = work.dims * _F32
    tokens = graph.input(n * _I32)
    embedded = graph.op(HOST, n * hidden, tokens)
    graph.expand(embedded, graph.input(n * hidden))
    positions, k_places, v_places = graph.input(n * _I32), graph.input(n * _I64), graph.input(n * _I64)
    mask, out_ids = graph.input(work.cells * n * _F16), graph.input(work.outputs * _I32)
    k_turn = graph.input(work.rotation**2 * _F32) if work.rotation else None
    v_turn = graph.input(64 * 64 * _F32) if work.rotation else None

    def rotated(place: int, tensor: _Tensor, width: int, turn: _Tensor | None) -> _Tensor:
        if turn is None:
            return tensor
        return view(graph.op(place, n * width * _F32, turn, view(tensor)))

    last = embedded
    for number, place in enumerate(layers):
        rows = n
        normed = _norm(graph, place, n * hidden, last)
        q = view(graph.op(place, n * work.queries * _F32, normed))
        k = view(graph.op(place, n * work.keys * _F32, normed))
        v = view(graph.op(place, n * work.keys * _F32, normed))
        q = _rope(graph, place, n * work.queries * _F32, _norm(graph, place, n * work.queries * _F32, q), positions)
        k = _rope(graph, place, n * work.keys * _F32, _norm(graph, place, n * work.keys * _F32, k), positions)
        q, k = rotated(place, q, work.queries, k_turn), rotated(place, k, work.keys, k_turn)
        v = rotated(place, v, work.keys, v_turn)
        graph.expand(q, v, k)
        for stored, places in ((k, k_places), (v, v_places)):
            graph.expand(graph.op(place, 0, view(stored), places))
        copies = 2 * work.cells * work.keys * _F16 if work.half_copies and work.rotation and place == GPU else 0
        attended = view(graph.op(place, n * work.queries * _F32 + copies, view(view(q)), mask))
        graph.expand(attended)
        attended = rotated(place, attended, work.queries, v_turn)
        current = graph.op(place, n * hidden, attended)
        if number == len(layers) - 1:
            rows = work.outputs
            current = graph.op(place, rows * hidden, current, out_ids)
            last = graph.op(place, rows * hidden, last, out_ids)
        inner = graph.op(place, rows * hidden, current, last, over=(current, last))
        normed = _norm(graph, place, rows * hidden, inner)
        up = graph.op(place, rows * work.ffn * _F32, normed)
        if work.gated:
            gate = graph.op(place, rows * work.ffn * _F32, normed)
            up = graph.op(place, rows * work.ffn * _F32, gate, up)
        else:
            up = graph.op(place, rows * work.ffn * _F32, up, over=(up,))
        down = graph.op(place, rows * hidden, up)
        # The scheduler gives what stands before a GPU's layer to that GPU, up to the last weight on the host.
        after = layers[number + 1] if number + 1 < len(layers) else place
        last = graph.op(max(place, after), rows * hidden, down, inner, over=(down, inner))
    place = layers[-1]
    normed = _norm(graph, place, work.outputs * hidden, last)
    graph.expand(graph.op(GPU if work.output_on_gpu else HOST, work.outputs * work.vocab * _F32, normed))
    _pool(graph, work, place, normed)
    return graph


def _encoder(work: Pass) -> _Graph:
    """BERT: biases, norms after the additions, attention over the micro-batch itself; llama.cpp pools."""
    graph, n = _Graph(), work.tokens
    view = graph.view
    layers = _places(work)
    hidden, place = work.dims * _F32, HOST
    tokens = graph.input(n * _I32)
    embedded = graph.op(HOST, n * hidden, tokens)
    positions = graph.input(n * _I32)
    graph.expand(embedded, graph.input(n * hidden))
    mask, out_ids = graph.input(n * n * _F16), graph.input(work.outputs * _I32)
    last = graph.op(HOST, n * hidden, embedded, over=(embedded,))
    placed = graph.op(HOST, n * hidden, positions)
    last = graph.op(HOST, n * hidden, placed, last, over=(placed, last))
    last = _norm(graph, HOST, n * hidden, last, bias=True)
    for number, place in enumerate(layers):
        rows = n

        def projected(width: int, place: int = place, last: _Tensor = last) -> _Tensor:
            product = graph.op(place, n * width * _F32, last)
            return view(graph.op(place, n * width * _F32, product, over=(product,)))

        q, k, v = projected(work.queries), projected(work.keys), projected(work.keys)
        graph.expand(q, k, v)
        seen = view(view(q))
        k = graph.op(place, n * work.keys * _F16, view(k))
        v = graph.op(place, n * work.keys * _F16, view(v))
        attended = view(graph.op(place, n * work.queries * _F32, seen, k, v, mask))
        graph.expand(attended)
        current = graph.op(place, n * hidden, attended)
        current = graph.op(place, n * hidden, current, over=(current,))
        if number == len(layers) - 1:
            rows = work.outputs
            current = graph.op(place, rows * hidden, current, out_ids)
            last = graph.op(place, rows * hidden, last, out_ids)
        current = graph.op(place, rows * hidden, current, last, over=(current, last))
        inner = _norm(graph, place, rows * hidden, current, bias=True)
        up = graph.op(place, rows * work.ffn * _F32, inner)
        up = graph.op(place, rows * work.ffn * _F32, up, over=(up,))
        up = graph.op(place, rows * work.ffn * _F32, up, over=(up,))
        down = graph.op(place, rows * hidden, up)
        down = graph.op(place, rows * hidden, down, over=(down,))
        down = graph.op(place, rows * hidden, down, inner, over=(down, inner))
        last = _norm(graph, place, rows * hidden, down, bias=True)
    graph.expand(last)
    _pool(graph, work, place, last)
    return graph


def _pool(graph: _Graph, work: Pass, place: int, rows: _Tensor) -> None:
    if not work.pooled:
        return
    size = work.pooled * work.dims * _F32
    if work.means:
        turned = graph.op(place, work.outputs * work.dims * _F32, graph.view(rows))
        graph.expand(graph.op(place, size, turned, graph.input(work.pooled * work.tokens * _F32)))
    else:
        graph.expand(graph.op(place, size, rows, graph.input(work.pooled * _I32)))


def _places(work: Pass) -> list[int]:
    host, gpu = min(work.host_layers, _SIMULATED_LAYERS), min(work.gpu_layers, _SIMULATED_LAYERS)
    return [HOST] * host + [GPU] * gpu


def _norm(graph: _Graph, place: int, size: int, tensor: _Tensor, bias: bool = False) -> _Tensor:
    # RMS norm can work in place, BERT's norm cannot; weights and biases can.
    normed = graph.op(place, size, tensor, over=() if bias else (tensor,))
    weighted = graph.op(place, size, normed, over=(normed,))
    return graph.op(place, size, weighted, over=(weighted,)) if bias else weighted


def _rope(graph: _Graph, place: int, size: int, tensor: _Tensor, positions: _Tensor) -> _Tensor:
    return graph.op(place, size, tensor, positions, over=(tensor,))


class _Space:
    """One buffer's free blocks. The last block is endless; what is used of it is the buffer's size."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = [[0, 1 << 62]]
        self.used = 0

    def take(self, size: int) -> int:
        size = _aligned(size)
        fitting = [block for block in self.blocks[:-1] if block[1] >= size]
        # Of equal blocks ggml takes the last.
        block = min(reversed(fitting), key=lambda block: block[1]) if fitting else self.blocks[-1]
        address = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            self.blocks.remove(block)
        self.used = max(self.used, address + size)
        return address

    def give(self, address: int, size: int) -> None:
        self.blocks.append([address, _aligned(size)])
        self.blocks.sort()
        merged = [self.blocks[0]]
        for block in self.blocks[1:]:
            if merged[-1][0] + merged[-1][1] == block[0]:
                merged[-1][1] += block[1]
            else:
                merged.append(block)
        self.blocks = merged


class _Allocator:
    """ggml-alloc: a tensor is held from its making to its last use, in place of a parent that nobody else needs."""

    def __init__(self) -> None:
        self.spaces = (_Space(), _Space())

    def run(self, graph: _Graph) -> tuple[int, int]:
        for tensor in graph.inputs:
            self.hold(tensor)
        nodes = _with_copies(graph.nodes)
        for node in nodes:
            if node.root is not None:
                node.root.n_views += 1
            for parent in node.parents:
                parent.n_children += 1
        for node in nodes:
            for tensor in (*node.parents, node):
                self.hold(tensor)
            for parent in node.parents:
                self.used(parent)
        return self.spaces[HOST].used, self.spaces[GPU].used

    def hold(self, tensor: _Tensor) -> None:
        if tensor.held or tensor.root is not None or not tensor.size:
            return
        tensor.held = True
        for parent in tensor.over:
            # A view owns nothing, so its place is never taken over.
            if parent.held and parent.place == tensor.place and parent.n_children == 1 and not parent.n_views:
                tensor.address, parent.held = parent.address, False
                return
        tensor.address = self.spaces[tensor.place].take(tensor.size)

    def used(self, parent: _Tensor) -> None:
        """One of those that need it has it; the last one frees it."""
        parent.n_children -= 1
        if parent.n_children or parent.n_views:
            return
        owner = parent
        if parent.root is not None:
            owner = parent.root
            owner.n_views -= 1
        if owner.held and not owner.n_views and not owner.n_children:
            owner.held = False
            self.spaces[owner.place].give(owner.address, owner.size)


def _with_copies(nodes: Iterable[_Tensor]) -> list[_Tensor]:
    """The nodes with copies of what comes from the other device, each at the start of the run that needs it first."""
    copies: dict[tuple[int, int], _Tensor] = {}
    out: list[_Tensor] = []
    run: list[_Tensor] = []
    begun: list[_Tensor] = []
    place: int | None = None
    for node in nodes:
        # A view goes nowhere by itself.
        if node.root is None and node.place != place:
            out += begun + run
            run, begun, place = [], [], node.place
        for index, parent in enumerate(node.parents):
            if node.root is not None or parent.place == node.place:
                continue
            key = id(parent), node.place
            if key not in copies:
                copies[key] = _Tensor((parent.root or parent).size, (), node.place)
                begun += [_Tensor(0, [parent], parent.place), copies[key]]
            node.over = [copies[key] if over is parent else over for over in node.over]
            node.parents[index] = copies[key]
        run.append(node)
    return out + begun + run


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
