"""The `nano` reasoner from scratch: a byte-level BPE of the catalog's text and a small Qwen3.

Larger reasoners start from a pretrained directory instead; all later steps are the same.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from models.catalog.sid import SidSpace
from models.reasoner.prompts import PAD, SPECIAL_TOKENS, TURN_END
from training.reasoner_recipes import NanoConfig

_TOKENS_AN_ITEM = 8  # a SID of five levels and its two markers, and one to spare


def build_tokenizer(
    texts: Iterable[str], space: SidSpace, text_tokens: int
) -> PreTrainedTokenizerFast:
    """Train a BPE on `texts`, then add markers and itemic tokens, one id each."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=text_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=TURN_END, clean_up_tokenization_spaces=False
    )
    added = [name for name in SPECIAL_TOKENS if name not in (PAD, TURN_END)]
    add_itemic_tokens(tokenizer, (*added, *space.tokens()))
    return tokenizer


def add_itemic_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Iterable[str]) -> int:
    """Add tokens that decoding keeps and no normaliser changes; return the number of new ones."""
    fresh = [AddedToken(token, special=False, normalized=False) for token in tokens]
    return int(tokenizer.add_tokens(fresh))


def new_reasoner(
    config: NanoConfig, tokenizer: PreTrainedTokenizerFast, *, history: int = 0
) -> Qwen3ForCausalLM:
    """Create a randomly initialised Qwen3 for the tokenizer; seed torch first.

    history: items of a history that it reads, for the longest text that it says to take.
    """
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.width // config.heads,
            max_position_embeddings=max(1024, _TOKENS_AN_ITEM * history + 512),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
