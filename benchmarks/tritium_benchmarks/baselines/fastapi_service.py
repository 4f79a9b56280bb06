"""FastAPI, as a typical first service is written: one request at a time, no batches.

    POST /predict {"text": "red apple", "image": "<base64>"} -> {"probabilities": [...]}

The handler is `async def` and computes right there: one request at a time, with all cores. An
ordinary function behind a lock, which FastAPI runs in its thread pool, answered 13 instead of 20
requests per second with PyTorch: each thread of the pool brings its own OpenMP team.
"""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI
from pydantic import Base64Bytes, BaseModel

from tritium_benchmarks.baselines.program import HOST
from tritium_benchmarks.baselines.reading import Model


class Question(BaseModel):
    """One pair."""

    text: str
    image: Base64Bytes


class Answer(BaseModel):
    """Its probabilities, in label order."""

    probabilities: list[float]


def serve(model: Model, port: int) -> None:
    """Serve a model until a signal ends the process."""
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/predict")
    async def predict(question: Question) -> Answer:
        (row,) = model([question.text], [question.image])
        return Answer(probabilities=row.tolist())

    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)
