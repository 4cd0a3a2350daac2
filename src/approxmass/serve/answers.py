"""What the server answers, as it stands in its description."""

__all__ = ["Description", "Drift", "Health", "LeftOut", "Refusal", "Result", "Results"]

import math

from pydantic import BaseModel, Field

from .batching import Row


class Result(BaseModel):
    """Scores of one image, or why it has none, and then all the others are null.

    `log_prob` and `mass` are null for methods other than the flow.
    """

    name: str
    log_prob: float | None = None
    mass: float | None = None
    statistic: float | None = None
    p_value: float | None = Field(default=None, gt=0, le=1)
    is_outlier: bool | None = None
    group: str | None = Field(
        default=None, description="By whose calibration; null where there is one."
    )
    error: str | None = Field(default=None, description="Why the image could not be scored.")

    @classmethod
    def of(cls, name: str, row: Row) -> "Result":
        """The scores of an image under its name."""
        scores = row._asdict()
        del scores["first"]
        for density in ("log_prob", "mass"):
            if math.isnan(scores[density]):
                scores[density] = None
        return cls(name=name, **scores)


class Results(BaseModel):
    """Scores of the images of a request, in their order."""

    results: list[Result]


class LeftOut(BaseModel):
    """An image that could not be scored."""

    name: str
    error: str


class Drift(BaseModel):
    """One p-value for all the images together; small = they have shifted."""

    images: int = Field(description="Those that could be scored.")
    group_p_value: float = Field(ge=0, le=1)
    left_out: list[LeftOut] = Field(description="Those that could not.")


class Description(BaseModel):
    """What the detector is."""

    method: str
    statistic: str
    channels: int
    height: int
    width: int
    columns: list[str] = Field(description="Of rows of numbers, in their order; none: images.")
    resizes: bool
    explains: bool
    groups: list[str] = Field(description="A request names one, ?group=NAME; none: leave it out.")
    training_images: int
    calibration_images: int


class Health(BaseModel):
    """That the server answers, and with what."""

    status: str
    version: str
    detector: Description


class Refusal(BaseModel):
    """Why a request is refused, in one line."""

    detail: str
