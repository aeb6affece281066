"""A loss on feature maps of two stages, with trained projectors."""

from collections.abc import Mapping

from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional

from distillkit import BatchInfo, ModelSpec, Outputs, PluginSpec, Read, Signal, TargetSpec, UserError


class TwoStages(nn.Module):
    """Squared distance between the projected features of the student and those of the teacher, at two stages.

    Formula: mean over positions and channels of (F_t - P(F_s))^2 for each stage, with a linear P for each.
    Shapes: teacher maps [B, N_t, D_t] become targets "stage0" and "stage1" [B, N_s, D_t], pooled to the student's grid;
        terms "stage0" and "stage1" [B].
    Source: Romero et al. 2015 (FitNets), arXiv:1412.6550, eq. 3, at two stages instead of one.
    Differs: a mean where eq. 3 takes half the sum.
    """

    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        stages: tuple[int, int] = Field((1, 2), strict=False, description="which stages, of both models, from 0")

    weight = 1.0
    label_weight = 1.0

    def __init__(self, stages: tuple[int, int], student: ModelSpec, teacher: ModelSpec) -> None:
        super().__init__()
        self.reads_teacher = self.reads_student = frozenset({Read(Signal.PATCH_TOKENS, stages)})
        self.teacher_grids = [teacher.grids[stage] for stage in stages]
        self.student_grids = [student.grids[stage] for stage in stages]
        self.projectors = nn.ModuleList(nn.Linear(student.widths[stage], teacher.widths[stage]) for stage in stages)
        self.targets = {
            f"stage{index}": TargetSpec((rows * columns, teacher.widths[stage]), "float32", exact=False)
            for index, (stage, (rows, columns)) in enumerate(zip(stages, self.student_grids, strict=True))
        }

    @classmethod
    def build(cls, options: Options, student: ModelSpec, teacher: ModelSpec) -> "TwoStages":
        for spec in (student, teacher):
            if max(options.stages) >= len(spec.grids):
                raise UserError(f"loss 'two-stages' reads stages {options.stages}; '{spec.name}' has {len(spec.grids)}")
        return cls(options.stages, student, teacher)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        pooled = {}
        for index, tokens in enumerate(teacher.patch_tokens):
            maps = tokens.detach().float().transpose(1, 2).unflatten(2, self.teacher_grids[index])  # [B, D, H, W]
            smaller = functional.adaptive_avg_pool2d(maps, self.student_grids[index])
            pooled[f"stage{index}"] = smaller.flatten(2).transpose(1, 2)  # [B, N_s, D]
        return pooled

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        terms = {}
        for index, (projector, tokens) in enumerate(zip(self.projectors, student.patch_tokens, strict=True)):
            distance = projector(tokens) - target[f"stage{index}"].to(tokens.dtype)
            terms[f"stage{index}"] = distance.square().mean(dim=(1, 2))
        return terms


def distillkit_losses() -> list[PluginSpec]:
    return [
        PluginSpec(
            name="two-stages",
            summary="squared distance of projected features at two stages",
            factory="contract_two_stages:TwoStages",
            signals=frozenset({Signal.PATCH_TOKENS}),
        )
    ]
