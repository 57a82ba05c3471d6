"""Prices from the catalogue of `genai-prices`, which is part of the installation: nothing is fetched.

``book`` asks it after the operator's price file.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from roadworthy.domain.money import nanos_of
from roadworthy.domain.usage import Tokens
from roadworthy.ports.prices import Price
from roadworthy.pricing.counts import consistent

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Usage

FREE_PROVIDER = "roadworthy"

# LangChain's `ls_provider` → the catalogue's id. A name that is missing here is not priced: another provider's price
# for a model of the same name would be a guess. So are `ollama` and `huggingface`, which say nothing of who runs it.
_PROVIDERS: Mapping[str, str] = {
    "anthropic": "anthropic",
    "openai": "openai",
    "google_genai": "google",
    "google_vertexai": "google",
    "google_anthropic_vertex": "google",
    "vertexai": "google",
    "azure": "azure",
    "azure_openai": "azure",
    "amazon_bedrock": "aws",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "mistral": "mistral",
    "mistralai": "mistral",
    "groq": "groq",
    "deepseek": "deepseek",
    "xai": "x-ai",
    "cohere": "cohere",
    "fireworks": "fireworks",
    "together": "together",
    "perplexity": "perplexity",
    "openrouter": "openrouter",
    "cerebras": "cerebras",
    "moonshot": "moonshotai",
}
_KEPT_MODELS = 1024


class Catalogue:
    """See ``ports.prices.PriceBook``. Standard prices: of batches, service tiers and regions nothing is known here."""

    def __init__(self) -> None:
        # Imported here: a command that prices nothing should not wait for 200 kB of prices.
        from genai_prices import __version__
        from genai_prices.data_snapshot import get_snapshot
        from genai_prices.types import Usage

        self.version = f"genai-prices {__version__}"
        self._providers = get_snapshot().providers
        self._usage: Callable[..., Usage] = Usage
        # Finding a model among hundreds of patterns takes a millisecond, and its price a tenth of that.
        self._found = lru_cache(maxsize=_KEPT_MODELS)(self._find)

    def price(self, provider: str, model: str, tokens: Tokens, at: datetime) -> Price | None:
        """See ``ports.prices.PriceBook.price``."""
        if provider == FREE_PROVIDER:
            return Price(cost_nanos=0, version=self.version)
        info = self._found(provider, model)
        if info is None:
            return None
        prices = info.get_prices(at)
        if prices.input_mtok is None and prices.output_mtok is None:
            return None  # sold by the second or by the image
        try:
            cost = prices.calc_price(self._counted(tokens))["total_price"]
        except ValueError:  # it is sold by kinds of tokens that nobody counted, such as audio
            return None
        return Price(cost_nanos=nanos_of(cost), version=self.version)

    def _counted(self, tokens: Tokens) -> "Usage":
        """The catalogue's kinds overlap as ours do: it prices each token once, as the narrowest kind with a price."""
        tokens = consistent(tokens)
        return self._usage(
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            cache_write_tokens=tokens.cache_write,
            cache_write_1h_tokens=tokens.cache_write_1h,
            output_reasoning_tokens=tokens.reasoning,
        )

    def _find(self, provider: str, model: str) -> "ModelInfo | None":
        wanted = _PROVIDERS.get(provider)
        if wanted is None or not model:
            return None
        # Google's clients write `models/gemini-…` and `publishers/google/models/gemini-…`.
        name = model.rpartition("/")[2] if wanted == "google" else model
        for one in self._providers:
            if one.id == wanted:
                # With all providers: Azure and Vertex sell models of others at their makers' prices.
                return one.find_model(name, all_providers=self._providers)
        return None
