"""A loss on the class token's attention, which CNNs do not have."""

from collections.abc import Mapping

from pydantic import BaseModel
from torch import Tensor, nn

from distillkit import BatchInfo, ModelSpec, Outputs, PluginSpec, Read, Signal, TargetSpec, UserError

LAST = frozenset({Read(Signal.CLS_ATTENTION)})


class AttentionRow(nn.Module):
    """Squared distance between the class tokens' attention in the last layers, averaged over heads.

    Shapes: teacher rows [B, 1, A, 1 + N] become a target "row" [B, 1 + N]; term "row" [B].
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        pass

    weight = 1.0
    label_weight = 1.0
    reads_teacher = LAST
    reads_student = LAST

    def __init__(self, keys: int) -> None:
        super().__init__()
        self.targets = {"row": TargetSpec((keys,), "float32")}

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> "AttentionRow":
        if student.grid != teacher.grid:
            raise UserError(f"loss 'attention-row' needs equal grids; {student.grid} and {teacher.grid} differ")
        return cls(1 + student.grid[0] * student.grid[1])

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {"row": teacher.cls_attention[:, 0].detach().float().mean(dim=1)}  # [B, 1 + N]

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        row = student.cls_attention[:, 0].mean(dim=1)  # [B, 1 + N]
        return {"row": (row - target["row"].to(row.dtype)).square().sum(dim=1)}


def distillkit_losses() -> list[PluginSpec]:
    return [
        PluginSpec(
            name="attention-row",
            summary="squared distance of the last attention rows",
            factory="contract_attention_row:AttentionRow",
            signals=frozenset({Signal.CLS_ATTENTION}),
        )
    ]
