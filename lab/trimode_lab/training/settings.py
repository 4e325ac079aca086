"""What the recipe fixes: the tiny model's shape, and the numbers of a run."""

from dataclasses import dataclass

from trimode_lab.training.tokenizer import BOS, END, MASK, PAD, VOCAB_SIZE
from trimode_workers.model import ModelConfig, RopeConfig

TINY = ModelConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=192,
    intermediate_size=512,
    layers=4,
    heads=6,
    kv_heads=2,
    head_dim=32,
    max_positions=4096,
    mask_token_id=MASK,
    eos_token_ids=(END,),
    bos_token_id=BOS,
    pad_token_id=PAD,
    block_size=32,
    rope=RopeConfig(theta=10000.0, original_max_positions=4096, query_scaling_beta=0.1),
)


@dataclass(frozen=True)
class Settings:
    """One run. It ends after `minutes` of wall time or `steps` steps, whichever is given; steps repeat exactly."""

    minutes: float | None = 60.0
    steps: int | None = None
    seed: int = 0
    threads: int = 2
    samples_per_step: int = 32
    samples_per_forward: int = 8
    peak_rate: float = 3e-3
    clip_norm: float = 1.0
    short_share: float = 0.12  # of the run spent on short samples first, where copying is learnt cheaply
    short_tokens: int = 64
    bfloat16: bool = True  # matrix products only; attention, norms and weights stay in float32
    checkpoint_seconds: float = 120.0
    glance_seconds: float = 180.0
    glance_per_task: int = 16

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run done, from `elapsed` seconds and finished steps."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.minutes is None else elapsed / (60.0 * self.minutes)
        return max(by_steps, by_time)
