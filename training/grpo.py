"""Group Relative Policy Optimization: advantages within a group, and the clipped loss.

This does not use TRL's GRPOTrainer. Our rollout keeps prompt, thought and beam on one token tree,
which TRL would compute three times (sampling, log-probabilities, beam). The loss is DeepSeekMath's
(TRL: loss_type="grpo"): the mean over a thought's tokens, then over thoughts.
"""

# P = prompts, G = thoughts per prompt, R = P x G, T = tokens of a thought, padded

import torch
from torch import Tensor

_SMALLEST_SPREAD = 1e-6


def group_advantages(reward_PG: Tensor) -> Tensor:
    """Return (reward - mean) / standard deviation within each group; 0 for equal rewards."""
    spread_P1 = reward_PG.std(dim=1, keepdim=True)
    centred_PG = reward_PG - reward_PG.mean(dim=1, keepdim=True)
    return torch.where(spread_P1 > _SMALLEST_SPREAD, centred_PG / spread_P1, 0.0)


def zero_variance_share(reward_PG: Tensor) -> float:
    """Return the share of groups with equal rewards only, which teach nothing."""
    is_flat_P = (reward_PG == reward_PG[:, :1]).all(dim=1)
    return float(is_flat_P.float().mean())


def grpo_loss(
    logp_RT: Tensor,
    old_logp_RT: Tensor,
    reference_logp_RT: Tensor,
    advantage_R: Tensor,
    is_token_RT: Tensor,
    *,
    clip: float,
    kl_weight: float,
) -> Tensor:
    """Return the loss: minus the clipped surrogate, plus `kl_weight` times the KL divergence.

    The divergence from the reference is estimated without bias as ratio - log(ratio) - 1, with the
    ratio reference / policy.

    logp_RT: of the policy, with gradient. old_logp_RT: of the policy that sampled the thoughts.
    is_token_RT: bool, False for padding.
    """
    ratio_RT = (logp_RT - old_logp_RT).exp()
    advantage_R1 = advantage_R.unsqueeze(1)
    clipped_RT = ratio_RT.clamp(1 - clip, 1 + clip)
    gain_RT = torch.minimum(ratio_RT * advantage_R1, clipped_RT * advantage_R1)
    off_RT = reference_logp_RT - logp_RT
    kl_RT = off_RT.exp() - off_RT - 1
    loss_RT = (kl_weight * kl_RT - gain_RT).masked_fill(~is_token_RT, 0.0)
    return (loss_RT.sum(dim=1) / is_token_RT.sum(dim=1).clamp(min=1)).mean()
