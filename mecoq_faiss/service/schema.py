"""The bodies of requests and answers, as /openapi.json describes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MOST_QUERIES, MOST_HITS = 64, 1000

K = Annotated[int, Field(ge=1, le=MOST_HITS, description="results a query")]
WHERE = "a condition on id, path, label and the metadata's columns, such as \"year >= 2020 and camera == 'X'\""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SearchBody(_Strict):
    """A search in JSON: images in base64, or vectors of a bundle of features."""

    images: list[str] | None = Field(None, max_length=MOST_QUERIES, description="image files in base64")
    vectors: list[list[float]] | None = Field(None, max_length=MOST_QUERIES, description="features (n, F)")
    k: K | None = None
    where: str | None = Field(None, max_length=10_000, description=WHERE)
    explain: bool = Field(False, description="also codes, and what each adds to the score")
    partial: bool = Field(False, description="rather an answer without shards that cannot be reached than none")
    bundle: str | None = Field(None, description="which of the bundles, by name; by default the first")


class HitBody(BaseModel):
    """An item that was found."""

    rank: int = Field(description="from 1")
    score: float = Field(description="the index's: AQS in [-M, M]")
    relevance: float | None = Field(description="(score + M) / 2M in [0, 1]; none for inner products and L2")
    id: int
    path: str
    label: str | None
    metadata: dict[str, Any] | None
    picture: str | None = Field(description="its address here; none where the service has no pictures")
    codes: list[int] | None = Field(None, description="(M,), with `explain`")
    segments: list[float] | None = Field(None, description="(M,): what each code adds to the score, with `explain`")


class ResultBody(BaseModel):
    """The hits of one query."""

    query: str
    hits: list[HitBody]


class SearchAnswer(BaseModel):
    """The answer to a search."""

    bundle: str
    generation: str = Field(description="of the export that was searched; another one after an update")
    missing_shards: int = Field(description="that could not be reached, and are not searched; with `partial`")
    results: list[ResultBody]


class ItemBody(BaseModel):
    """One item."""

    id: int
    path: str
    label: str | None
    metadata: dict[str, Any] | None
    picture: str | None
    codes: list[int]


class BundleBody(BaseModel):
    """One of the bundles that are served."""

    name: str
    items: int
    kind: str
    codes: str = Field(description="product or additive")
    M: int
    nbits: int
    bytes: float = Field(description="of a code")
    takes: str = Field(description="images or features")
    feature_dim: int | None
    columns: list[str] = Field(description="of `where`")
    generation: str


class ServiceBody(BaseModel):
    """What is served, and what a client may do."""

    version: str
    bundles: list[BundleBody]
    pictures: bool
    needs_key: bool
    may_write: bool
    most_queries: int
    most_hits: int


class HealthBody(BaseModel):
    """Live: it answers. Ready: it searches."""

    live: bool
    ready: bool


class Added(BaseModel):
    """What adding, or removing, did."""

    model_config = ConfigDict(extra="allow")
    items: int


class ErrorBody(BaseModel):
    """What went wrong, in one line."""

    error: str


EXAMPLE_HIT = {
    "rank": 1, "score": 3.71, "relevance": 0.964, "id": 107, "path": "cat/7.jpg", "label": "cat",
    "metadata": {"year": 2024}, "picture": "/items/107/picture", "codes": None, "segments": None,
}  # fmt: skip
EXAMPLE_ANSWER = {
    "bundle": "bundle",
    "generation": "1f0c9a7be233",
    "missing_shards": 0,
    "results": [{"query": "query.jpg", "hits": [EXAMPLE_HIT]}],
}
FORM = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "k": {"type": "integer", "minimum": 1, "maximum": MOST_HITS},
        "where": {"type": "string", "description": WHERE},
        "explain": {"type": "boolean"},
        "partial": {"type": "boolean"},
        "bundle": {"type": "string"},
    },
}
SEARCH_REQUEST = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": FORM},
        "application/json": {
            "schema": SearchBody.model_json_schema(),
            "examples": {
                "image": {"value": {"images": ["/9j/4AAQSkZJRgABAQ..."], "k": 10}},
                "filtered": {"value": {"images": ["/9j/4AAQ..."], "k": 5, "where": "year >= 2020"}},
                "vector": {"value": {"vectors": [[0.1, -0.3, 0.7]], "k": 10}},
            },
        },
    },
}
ADD_REQUEST = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "the file's name is the item's path, relative to the collection's folder",
                    }
                },
            }
        }
    },
}
