"""The source's motion, for the target to follow."""

from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.conditioning.append import AppendTokens
from vedit.conditioning.base import latents_of
from vedit.conditioning.embed import PatchEmbed
from vedit.tokens import Context, TokenSequence


class AppendWithMotion(AppendTokens):
    """Append the source, and add its temporal difference to the tokens of the target.

    The patch embedding of Wan looks at one latent frame at a time, so how things move is known only
    to attention. Here target token i also receives M (z_i - z_{i-1}) of the source latents z, with
    a linear map M that starts at zero: the model starts as if the source were appended alone.

    Args:
        spec: sizes of the backbone.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__(spec)
        self.motion = PatchEmbed(spec, bias=False)

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Add the motion to the target and append the source.

        Args:
            sequence: must hold the target.
            signal: latents (B, C, t, h, w) on the target's grid.
            name: of the slot, and of the new segment.

        Returns:
            The sequence with one more segment (B, N, D).

        Raises:
            ValueError: if the source has another number of tokens than the target.
        """
        z = latents_of(signal, name)
        motion, _ = self.motion(z.diff(dim=2, prepend=z[:, :, :1]), sequence)
        return super().forward(sequence.add("target", motion), signal, name)
