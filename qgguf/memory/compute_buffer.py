"""The size of llama.cpp's compute buffer, from a model's graph as a list of sizes and llama.cpp's allocator.

A closed formula would have to guess how the allocator's free blocks fall. This module walks the same graph in the same
order, and so returns the figure that llama.cpp reports. It models two graphs, Qwen3's and BERT's; for a model of
another architecture the figure is an estimate (`ModelSizes.exact_compute_buffer`). Pure; takes some milliseconds.
source  ggml-alloc.c (best fit, reuse of an input's memory), ggml-backend.cpp (copies between devices), llama-graph.cpp,
        models/qwen3.cpp and models/bert.cpp of the vendored llama.cpp
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

ALIGNMENT = 32
"""Of a CPU buffer, in bytes. A GPU's is larger (CUDA: 128), which does not matter beside tensors of megabytes."""

CPU, GPU = 0, 1

_F32, _F16, _I32, _I64 = 4, 2, 4, 8
_SIMULATED_LAYERS = 4
"""Layers of each device that are simulated: all are alike, and more of them on one device change nothing."""


@dataclass(frozen=True, slots=True)
class GraphShape:
    """The sizes that determine a graph, and with it the memory that llama.cpp reserves.

    post_norm      BERT's graph, which normalises after its sums, else Qwen3's
    gated          the feed-forward part has a gate
    experts        experts that compute each token; 1 where there are none
    dims, queries, keys, ffn, vocab    widths in numbers: hidden state, all query heads, all KV heads, inner, output
    tokens         micro-batch
    outputs        rows that leave the last layer
    cells          KV cells; 0 where there is no KV cache
    masks          attention masks: 2 where some layers have a sliding window
    rotation       width of the matrix that rotates a quantised KV cache; 0 where it is not quantised
    pooled         texts that llama.cpp pools by itself; 0 where it does not pool
    means          it pools by the mean of all rows, else by one row of each text
    cpu_layers, gpu_layers    the first ones on the CPU, the rest on the GPU
    output_on_gpu  the vocabulary projection's matrix is on the GPU
    half_copies    the GPU's attention first copies a quantised cache into half precision, as CUDA does
    score_heads    heads whose scores of all tokens with all tokens are stored, because the device lacks flash attention
                   for this model; 0 where it has it, as a CPU always
    """

    post_norm: bool
    gated: bool
    dims: int
    queries: int
    keys: int
    ffn: int
    vocab: int
    tokens: int
    outputs: int
    cells: int
    experts: int = 1
    masks: int = 1
    rotation: int = 0
    pooled: int = 0
    means: bool = False
    cpu_layers: int = 1
    gpu_layers: int = 0
    output_on_gpu: bool = False
    half_copies: bool = False
    score_heads: int = 0


def compute_buffer_bytes(shape: GraphShape) -> tuple[int, int]:
    """Return the bytes that llama.cpp's allocator reserves for a graph: (on the CPU, on the GPU)."""
    return _simulate(
        replace(
            shape,
            cpu_layers=min(shape.cpu_layers, _SIMULATED_LAYERS),
            gpu_layers=min(shape.gpu_layers, _SIMULATED_LAYERS),
        )
    )


@lru_cache(maxsize=4096)
def _simulate(shape: GraphShape) -> tuple[int, int]:
    return _Allocator().run(_bert(shape) if shape.post_norm else _qwen3(shape))


class _Tensor:
    """A tensor of a graph.

    size      bytes; 0 for a view, and for what is written to the KV cache
    device    CPU or GPU
    in_place  parents whose memory it may take: of the same layout, and the operation may overwrite it
    root      the tensor that it is a view of
    """

    __slots__ = (
        "address",
        "device",
        "in_place",
        "is_allocated",
        "is_input",
        "n_children",
        "n_views",
        "parents",
        "root",
        "size",
    )

    def __init__(
        self,
        size: int,
        parents: Sequence["_Tensor"],
        device: int,
        in_place: Sequence["_Tensor"] = (),
        root: "_Tensor | None" = None,
        is_input: bool = False,
    ) -> None:
        self.size, self.parents, self.device, self.in_place = size, list(parents), device, list(in_place)
        self.root, self.is_input = root, is_input
        self.n_children = self.n_views = self.address = 0
        self.is_allocated = False


def _input(size: int) -> _Tensor:
    return _Tensor(size, (), CPU, is_input=True)


def _view(parent: _Tensor) -> _Tensor:
    root = parent.root or parent
    return _Tensor(0, [parent], root.device, root=root)


class _Graph:
    """Tensors in the order in which ggml visits them: inputs and operations."""

    def __init__(self) -> None:
        self.inputs: list[_Tensor] = []
        self.operations: list[_Tensor] = []
        self._visited: set[int] = set()

    def expand(self, *tensors: _Tensor) -> None:
        """Add tensors, and before them what they need, as ggml_build_forward_expand does."""
        for tensor in tensors:
            self._visit(tensor)

    def _visit(self, tensor: _Tensor) -> None:
        if id(tensor) in self._visited:
            return
        self._visited.add(id(tensor))
        for parent in tensor.parents:
            self._visit(parent)
        (self.inputs if tensor.is_input else self.operations).append(tensor)


# The graphs


@dataclass(frozen=True, slots=True)
class _Operations:
    """Operations on one device whose results have so many rows."""

    device: int
    rows: int

    def result(
        self,
        columns: int,
        *parents: _Tensor,
        in_place: Sequence[_Tensor] = (),
        bytes_per_number: int = _F32,
        extra_bytes: int = 0,
    ) -> _Tensor:
        """Return the result of any operation: rows by columns."""
        return _Tensor(self.rows * columns * bytes_per_number + extra_bytes, parents, self.device, in_place)

    def linear(self, columns: int, tensor: _Tensor, bias: bool = False) -> _Tensor:
        projected = self.result(columns, tensor)
        return self.result(columns, projected, in_place=[projected]) if bias else projected

    def feed_forward(self, shape: GraphShape, tensor: _Tensor, bias: bool = False) -> _Tensor:
        experts = replace(self, rows=self.rows * shape.experts)
        up = experts.linear(shape.ffn, tensor, bias)
        if shape.gated:
            gate = experts.linear(shape.ffn, tensor, bias)
            up = experts.result(shape.ffn, gate, up)
        else:
            up = experts.result(shape.ffn, up, in_place=[up])  # the activation
        down = experts.linear(shape.dims, up, bias)
        return down if shape.experts == 1 else self.result(shape.dims, down)

    def sum(self, columns: int, first: _Tensor, second: _Tensor) -> _Tensor:
        return self.result(columns, first, second, in_place=[first, second])

    def rms_norm(self, columns: int, tensor: _Tensor) -> _Tensor:
        normed = self.result(columns, tensor, in_place=[tensor])
        return self.result(columns, normed, in_place=[normed])  # times the weights

    def layer_norm(self, columns: int, tensor: _Tensor) -> _Tensor:
        normed = self.result(columns, tensor)  # unlike the RMS norm, never in the input's memory
        weighted = self.result(columns, normed, in_place=[normed])
        return self.result(columns, weighted, in_place=[weighted])  # plus the bias

    def rope(self, columns: int, tensor: _Tensor, positions: _Tensor) -> _Tensor:
        return self.result(columns, tensor, positions, in_place=[tensor])


class _Inputs:
    """Inputs of Qwen3's layers. The rotations are None where the KV cache is not quantised."""

    def __init__(self, shape: GraphShape) -> None:
        self.positions = _input(shape.tokens * _I32)
        self.key_cells, self.value_cells = _input(shape.tokens * _I64), _input(shape.tokens * _I64)
        self.mask = _mask(shape)
        self.output_ids = _input(shape.outputs * _I32)
        self.key_rotation = _input(shape.rotation**2 * _F32) if shape.rotation else None
        self.value_rotation = _input(64 * 64 * _F32) if shape.rotation else None


def _qwen3(shape: GraphShape) -> _Graph:
    """Return Qwen3's graph: the last layer continues with the output rows alone."""
    graph, dims, devices = _Graph(), shape.dims, _devices(shape)
    hidden = _embeddings(graph, shape)
    inputs = _Inputs(shape)
    for index, device in enumerate(devices):
        ops = _Operations(device, shape.tokens)
        attended = _qwen3_attention(graph, shape, inputs, ops, hidden)
        next_device = device
        if index + 1 < len(devices):
            next_device = devices[index + 1]
        else:
            ops, attended, hidden = _output_rows(shape, device, attended, hidden, inputs.output_ids)
        inner = ops.sum(dims, attended, hidden)
        down = ops.feed_forward(shape, ops.rms_norm(dims, inner))
        # llama.cpp's scheduler moves what precedes a GPU's layer to that GPU, back to the last weight on the CPU.
        hidden = _Operations(max(device, next_device), ops.rows).sum(dims, down, inner)
    normed = _Operations(devices[-1], shape.outputs).rms_norm(dims, hidden)
    graph.expand(_Operations(GPU if shape.output_on_gpu else CPU, shape.outputs).linear(shape.vocab, normed))
    _pool(graph, shape, devices[-1], normed)
    return graph


def _qwen3_attention(graph: _Graph, shape: GraphShape, inputs: _Inputs, ops: _Operations, hidden: _Tensor) -> _Tensor:
    """Add Qwen3's attention: norms of queries and keys, rotation, KV cache. Return its output, as wide as `hidden`."""
    queries, keys = shape.queries, shape.keys

    def rotated(tensor: _Tensor, columns: int, rotation: _Tensor | None) -> _Tensor:
        return tensor if rotation is None else _view(ops.result(columns, rotation, _view(tensor)))

    normed = ops.rms_norm(shape.dims, hidden)
    q = _view(ops.linear(queries, normed))
    k = _view(ops.linear(keys, normed))
    v = _view(ops.linear(keys, normed))
    q = ops.rope(queries, ops.rms_norm(queries, q), inputs.positions)
    k = ops.rope(keys, ops.rms_norm(keys, k), inputs.positions)
    q = rotated(q, queries, inputs.key_rotation)
    k = rotated(k, keys, inputs.key_rotation)
    v = rotated(v, keys, inputs.value_rotation)
    graph.expand(q, v, k)
    if shape.cells:
        for stored, cells in ((k, inputs.key_cells), (v, inputs.value_cells)):
            graph.expand(_Tensor(0, (_view(stored), cells), ops.device))
        is_copied = shape.half_copies and shape.rotation > 0 and ops.device == GPU
        copies = 2 * shape.cells * keys * _F16 if is_copied else 0
        attended = _view(ops.result(queries, _view(_view(q)), inputs.mask, extra_bytes=copies))
        graph.expand(attended)
    else:
        attended = _attention_without_cache(graph, shape, inputs.mask, ops, q, k, v)
    return ops.linear(shape.dims, rotated(attended, queries, inputs.value_rotation))


def _bert(shape: GraphShape) -> _Graph:
    """Return BERT's graph: biases, norms after the sums, attention over the micro-batch itself; llama.cpp pools."""
    graph, dims, devices = _Graph(), shape.dims, _devices(shape)
    hidden = _embeddings(graph, shape)
    mask, output_ids = _mask(shape), _input(shape.outputs * _I32)
    on_cpu = _Operations(CPU, shape.tokens)
    typed = on_cpu.result(dims, hidden, in_place=[hidden])  # plus the embedding of the token type
    hidden = on_cpu.sum(dims, on_cpu.result(dims, _input(shape.tokens * _I32)), typed)  # plus those of the positions
    hidden = on_cpu.layer_norm(dims, hidden)
    for index, device in enumerate(devices):
        ops = _Operations(device, shape.tokens)
        attended = _bert_attention(graph, shape, mask, ops, hidden)
        if index + 1 == len(devices):
            ops, attended, hidden = _output_rows(shape, device, attended, hidden, output_ids)
        inner = ops.layer_norm(dims, ops.sum(dims, attended, hidden))
        down = ops.feed_forward(shape, inner, bias=True)
        hidden = ops.layer_norm(dims, ops.sum(dims, down, inner))
    graph.expand(hidden)
    _pool(graph, shape, devices[-1], hidden)
    return graph


def _bert_attention(graph: _Graph, shape: GraphShape, mask: _Tensor, ops: _Operations, hidden: _Tensor) -> _Tensor:
    """Add BERT's attention. Return its output, as wide as `hidden`."""
    q = _view(ops.linear(shape.queries, hidden, bias=True))
    k = _view(ops.linear(shape.keys, hidden, bias=True))
    v = _view(ops.linear(shape.keys, hidden, bias=True))
    graph.expand(q, k, v)
    return ops.linear(shape.dims, _attention_without_cache(graph, shape, mask, ops, q, k, v), bias=True)


def _attention_without_cache(
    graph: _Graph, shape: GraphShape, mask: _Tensor, ops: _Operations, q: _Tensor, k: _Tensor, v: _Tensor
) -> _Tensor:
    q = _view(_view(q))
    if shape.score_heads:
        scores = ops.result(shape.score_heads * shape.tokens, _view(k), q)
        weights = ops.result(shape.score_heads * shape.tokens, scores, mask, in_place=[scores])
        transposed = ops.result(shape.keys, _view(v))
        attended = ops.result(shape.queries, _view(ops.result(shape.queries, transposed, weights)))
        graph.expand(attended)
        return attended
    k = ops.result(shape.keys, _view(k), bytes_per_number=_F16)
    v = ops.result(shape.keys, _view(v), bytes_per_number=_F16)
    attended = _view(ops.result(shape.queries, q, k, v, mask))
    graph.expand(attended)
    return attended


def _mask(shape: GraphShape) -> _Tensor:
    """Return the attention masks, as one tensor."""
    bytes_per_number = _F32 if shape.score_heads else _F16
    return _input(shape.masks * (shape.cells or shape.tokens) * shape.tokens * bytes_per_number)


def _embeddings(graph: _Graph, shape: GraphShape) -> _Tensor:
    """Add the token embeddings and, unused, the input for ready-made embeddings."""
    hidden = _Operations(CPU, shape.tokens).result(shape.dims, _input(shape.tokens * _I32))
    graph.expand(hidden, _input(shape.tokens * shape.dims * _F32))
    return hidden


def _output_rows(
    shape: GraphShape, device: int, attended: _Tensor, hidden: _Tensor, output_ids: _Tensor
) -> tuple[_Operations, _Tensor, _Tensor]:
    """Select the rows that leave the model, with which the last layer continues after its attention."""
    ops = _Operations(device, shape.outputs)
    return ops, ops.result(shape.dims, attended, output_ids), ops.result(shape.dims, hidden, output_ids)


def _pool(graph: _Graph, shape: GraphShape, device: int, hidden: _Tensor) -> None:
    if not shape.pooled:
        return
    pooled = _Operations(device, shape.pooled)
    if shape.means:
        transposed = _Operations(device, shape.outputs).result(shape.dims, _view(hidden))
        graph.expand(pooled.result(shape.dims, transposed, _input(shape.pooled * shape.tokens * _F32)))
    else:
        graph.expand(pooled.result(shape.dims, hidden, _input(shape.pooled * _I32)))


def _devices(shape: GraphShape) -> list[int]:
    return [CPU] * shape.cpu_layers + [GPU] * shape.gpu_layers


# The allocator


class _Buffer:
    """One buffer's free blocks, (address, size). The last block is endless; what is used of it is the buffer's size."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = [[0, 1 << 62]]
        self.size = 0

    def allocate(self, size: int) -> int:
        """Return the address of a block in the free block that fits best."""
        size = _aligned(size)
        fitting = [block for block in self.blocks[:-1] if block[1] >= size]
        # Of equal blocks ggml takes the last.
        block = min(reversed(fitting), key=lambda block: block[1]) if fitting else self.blocks[-1]
        address = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            self.blocks.remove(block)
        self.size = max(self.size, address + size)
        return address

    def free(self, address: int, size: int) -> None:
        """Return a block, and merge it with free neighbours."""
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
    """ggml-alloc: a tensor has memory until its last use, and takes that of a parent which nothing else needs."""

    def __init__(self) -> None:
        self.buffers = (_Buffer(), _Buffer())

    def run(self, graph: _Graph) -> tuple[int, int]:
        """Return the sizes of the buffers after the whole graph: (CPU, GPU)."""
        for tensor in graph.inputs:
            self.allocate(tensor)
        operations = _with_copies(graph.operations)
        for tensor in operations:
            if tensor.root is not None:
                tensor.root.n_views += 1
            for parent in tensor.parents:
                parent.n_children += 1
        for tensor in operations:
            for needed in (*tensor.parents, tensor):
                self.allocate(needed)
            for parent in tensor.parents:
                self.release(parent)
        return self.buffers[CPU].size, self.buffers[GPU].size

    def allocate(self, tensor: _Tensor) -> None:
        """Give a tensor its memory, unless it has some or needs none."""
        if tensor.is_allocated or tensor.root is not None or not tensor.size:
            return
        tensor.is_allocated = True
        for parent in tensor.in_place:
            # A view owns no memory, so there is none to take over.
            is_free = parent.is_allocated and parent.n_children == 1 and not parent.n_views
            if is_free and parent.device == tensor.device:
                tensor.address, parent.is_allocated = parent.address, False
                return
        tensor.address = self.buffers[tensor.device].allocate(tensor.size)

    def release(self, parent: _Tensor) -> None:
        """Count one use of a tensor; the last one frees its memory."""
        parent.n_children -= 1
        if parent.n_children or parent.n_views:
            return
        owner = parent
        if parent.root is not None:
            owner = parent.root
            owner.n_views -= 1
        if owner.is_allocated and not owner.n_views and not owner.n_children:
            owner.is_allocated = False
            self.buffers[owner.device].free(owner.address, owner.size)


def _with_copies(operations: Iterable[_Tensor]) -> list[_Tensor]:
    """Return the operations with copies of what comes from the other device.

    Each copy is made at the start of the run of operations on one device that first needs it.
    """
    copies: dict[tuple[int, int], _Tensor] = {}
    done: list[_Tensor] = []
    run: list[_Tensor] = []
    run_copies: list[_Tensor] = []
    device: int | None = None
    for tensor in operations:
        # A view does not start a run.
        if tensor.root is None and tensor.device != device:
            done += run_copies + run
            run, run_copies, device = [], [], tensor.device
        for index, parent in enumerate(tensor.parents):
            if tensor.root is not None or parent.device == tensor.device:
                continue
            key = id(parent), tensor.device
            if key not in copies:
                copies[key] = _Tensor((parent.root or parent).size, (), tensor.device)
                run_copies += [_Tensor(0, [parent], parent.device), copies[key]]
            tensor.in_place = [copies[key] if other is parent else other for other in tensor.in_place]
            tensor.parents[index] = copies[key]
        run.append(tensor)
    return done + run_copies + run


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
