"""Packed weights in an ONNX graph: where a float weight was read, nodes that read its codes.

Linear layers become MatMulNBits (com.microsoft), or DequantizeLinear before a MatMul for one scale a row; tables are
gathered as codes, so that only the rows that are read are decoded. Where inputs have a range, they are rounded in front
of the layer (QuantizeLinear, DequantizeLinear), and ONNX Runtime multiplies the integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tercile.compression.export.onnx_activations import InputRange
from tercile.quantization import packing
from tercile.quantization.blocks import as_matrix
from tercile.quantization.qtensor import QTensor

MICROSOFT = "com.microsoft"


class PackedGraph:
    """Replaces the weights of a graph.

    Parameters
    ----------
    graph
        Of `onnx_ir`, with the float weights as initializers that are named like the model's tensors, behind a prefix.
    quantized
        What stands for each weight, by name.
    tied
        Other names of the same tensors.
    inputs
        By layer, fixed ranges of what it reads. With them, layers whose weights are in groups round their inputs too, a
        scale for each group as they go.
    """

    def __init__(
        self,
        graph: Any,
        quantized: Mapping[str, QTensor],
        tied: Mapping[str, str],
        inputs: Mapping[str, InputRange] | None = None,
    ) -> None:
        self.graph = graph
        self.inputs = {} if inputs is None else {f"model.{layer}.weight": one for layer, one in inputs.items()}
        self._rounded: dict[int, Any] = {}
        self.quantized = {f"model.{name}": q for name, q in quantized.items()}
        self.quantized |= {f"model.{alias}": quantized[name] for name, alias in tied.items() if name in quantized}
        self._kept: dict[tuple[int | str, str], Any] = {}

    def replace(self) -> None:
        """Replaces every read of a packed weight, then drops the float weights.

        Raises
        ------
        ValueError
            If a weight is read in a way that can't be replaced.
        """
        for name, q in self.quantized.items():
            value = self.graph.initializers.get(name)
            if value is None:
                continue  # a tied name that the trace merged
            for node, position in list(value.uses()):
                self._replace_read(node, position, name, q)
            for node, _ in list(value.uses()):
                if not any(out.uses() for out in node.outputs):
                    self.graph.remove(node, safe=True)
            if not value.uses():
                del self.graph.initializers[name]

    def _replace_read(self, node: Any, position: int, name: str, q: QTensor) -> None:
        if node.op_type == "Transpose" and len(q.shape) == 2:
            for reader, _ in list(node.outputs[0].uses()):
                self._replace_product(reader, reader.inputs[0], None, name, q)
        elif node.op_type == "Gemm" and position == 1 and node.attributes["transB"].as_int() == 1:
            self._replace_product(node, node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None, name, q)
        elif node.op_type == "Gather" and position == 0:
            self._put(node, self._gathered(node, name, q))
        else:
            node.replace_input_with(position, self._decoded(node, name, q))
            if node.op_type == "Conv" and name in self.inputs:
                node.replace_input_with(0, self._rounded_input(node, node.inputs[0], name))

    def _replace_product(self, node: Any, x: Any, bias: Any, name: str, q: QTensor) -> None:
        if node.op_type not in ("MatMul", "Gemm"):
            raise ValueError(f"{name} is read by {node.op_type}, which can't read packed weights; use --to float")
        if q.scheme.blocks.columns is None and name in self.inputs:
            # Unsigned times unsigned: the one product of ONNX Runtime that can't overflow its sums without VNNI.
            weight = self._node(
                node,
                "DequantizeLinear",
                [
                    self._constant(name, "turned", np.ascontiguousarray(q.codes.T)),
                    self._constant(name, "row_scale", q.ranges.scale.reshape(-1)),
                    self._constant(name, "row_zero", np.full(len(q.codes), 128, np.uint8)),
                ],
                {"axis": 1},
            )
            product = self._node(node, "MatMul", [self._rounded_input(node, x, name), weight])
        elif q.scheme.blocks.columns is None:
            turned = self._node(node, "Transpose", [self._decoded(node, name, q)], {"perm": [1, 0]})
            product = self._node(node, "MatMul", [x, turned])
        else:
            rows, columns = as_matrix(q.shape)
            inputs = [x, self._codes(name, q), self._constant(name, "scale", q.ranges.scale.reshape(-1))]
            if q.scheme.asymmetric:
                inputs.append(self._constant(name, "zero", _packed_rows(_zeros(q), q)))
            attributes = {
                "K": columns,
                "N": rows,
                "bits": int(q.scheme.grid.bits),
                "block_size": q.scheme.blocks.columns,
            }
            if self.inputs:
                attributes["accuracy_level"] = 4  # int8
            product = self._node(node, "MatMulNBits", inputs, attributes, MICROSOFT)
        self._put(node, product if bias is None else self._node(node, "Add", [product, bias]))

    def _gathered(self, node: Any, name: str, q: QTensor) -> Any:
        rows = node.inputs[1]
        if q.scheme.blocks.columns is None:
            codes = self._node(node, "Gather", [self._signed(name, q), rows], {"axis": 0})
            scale = self._constant(name, "scale", q.ranges.scale)
            number = self._node(node, "Cast", [codes], {"to": 1})
            return self._node(node, "Mul", [number, self._node(node, "Gather", [scale, rows], {"axis": 0})])
        height, columns = as_matrix(q.shape)
        bits = int(q.scheme.grid.bits)
        shape = self._constant(name, "flat", np.array([height, columns * bits // 8], dtype=np.int64))
        flat = self._node(node, "Reshape", [self._codes(name, q), shape])
        zeros = _zeros(q) if q.scheme.asymmetric else np.full(q.ranges.scale.shape, 1 << (bits - 1), np.uint8)
        inputs = [flat, rows, self._constant(name, "grid_scale", q.ranges.scale)]
        inputs.append(self._constant(name, "grid_zero", _packed_rows(zeros, q)))
        attributes = {"bits": bits, "block_size": q.scheme.blocks.columns, "gather_axis": 0, "quantize_axis": 1}
        return self._node(node, "GatherBlockQuantized", inputs, attributes, MICROSOFT)

    def _decoded(self, node: Any, name: str, q: QTensor) -> Any:
        """The float weight, decoded from 8 bits and one scale a row while the graph runs."""
        if q.scheme.blocks.columns is not None:
            raise ValueError(f"{name} is read by {node.op_type}, which can't read packed groups; use --to float")
        scale = self._constant(name, "row_scale", q.ranges.scale.reshape(-1))
        return self._node(node, "DequantizeLinear", [self._signed(name, q), scale], {"axis": 0})

    def _rounded_input(self, node: Any, x: Any, name: str) -> Any:
        """What a layer reads, rounded; layers that read the same tensor read it rounded once."""
        found = self.inputs[name]
        if id(x) not in self._rounded:
            ends = [
                self._constant(name, "input_scale", np.array(found.scale, np.float32)),
                self._constant(name, "input_zero", np.array(found.zero, np.uint8)),
            ]
            codes = self._node(node, "QuantizeLinear", [x, *ends])
            self._rounded[id(x)] = self._node(node, "DequantizeLinear", [codes, *ends])
        return self._rounded[id(x)]

    def _signed(self, name: str, q: QTensor) -> Any:
        return self._constant(name, "int8", (q.codes.astype(np.int16) - 128).astype(np.int8).reshape(q.shape))

    def _codes(self, name: str, q: QTensor) -> Any:
        """uint8 (rows, blocks, bytes of a block); groups fill whole bytes, so our order of bits is theirs."""
        rows, columns = as_matrix(q.shape)
        size = q.scheme.blocks.columns
        assert size is not None
        width = size * int(q.scheme.grid.bits) // 8
        raw = q.words.view(np.uint8).reshape(rows, -1)[:, : columns // size * width]
        return self._constant(name, "codes", np.ascontiguousarray(raw).reshape(rows, columns // size, width))

    def _constant(self, name: str, part: str, array: np.ndarray) -> Any:
        import onnx_ir

        key = (name if part.startswith("input") else id(self.quantized[name]), part)
        if key not in self._kept:
            value = onnx_ir.Value(name=f"{name}.{part}", const_value=onnx_ir.tensor(array, name=f"{name}.{part}"))
            self.graph.register_initializer(value)
            self._kept[key] = value
        return self._kept[key]

    def _node(
        self, before: Any, kind: str, inputs: list[Any], attributes: dict[str, Any] | None = None, domain: str = ""
    ) -> Any:
        """A new node in front of another; its output."""
        import onnx_ir

        made = onnx_ir.node(kind, inputs, attributes or {}, domain=domain)
        self.graph.insert_before(before, made)
        return made.outputs[0]

    def _put(self, node: Any, value: Any) -> None:
        """Lets everything read a new value in place of a node's output, and drops the node."""
        import onnx_ir

        old = node.outputs[0]
        value.name, value.shape, value.type = old.name, old.shape, old.type
        onnx_ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)


def _zeros(q: QTensor) -> np.ndarray:
    """Zero points, uint8 (block rows, block columns)."""
    blocks = q.scheme.blocks.count(as_matrix(q.shape))
    return packing.unpack(q.arrays["zero"], blocks[0] * blocks[1], q.scheme.grid).reshape(blocks)


def _packed_rows(codes: np.ndarray, q: QTensor) -> np.ndarray:
    """Small codes packed row by row into whole bytes, the first in the lowest bits."""
    bits = int(q.scheme.grid.bits)
    wide = np.unpackbits(codes[:, :, None], axis=2, bitorder="little")[:, :, :bits]
    return np.packbits(wide.reshape(len(codes), -1), axis=1, bitorder="little")
