"""Which part of an editor is finetuned how."""

from dataclasses import dataclass, field

from vedit.finetune.base import Finetune
from vedit.finetune.frozen import Frozen
from vedit.finetune.full import Full


@dataclass(frozen=True)
class FinetunePlan:
    """The finetuning method of each part.

    Attributes:
        backbone: of the diffusion transformer.
        tower: of the context encoder's pretrained part.
        connector: of what maps its features to the backbone's width.
        injections: of the modules that bring conditions in.
    """

    backbone: Finetune = field(default_factory=Full)
    tower: Finetune = field(default_factory=Frozen)
    connector: Finetune = field(default_factory=Frozen)
    injections: Finetune = field(default_factory=Full)
