"""Figures of an engine for tests and monitoring."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an open model has done, does now and holds.

    batches        number of batches computed since the model was opened
    tokens         number of tokens computed since then: shared beginnings once, kept prompts not again
    calls          number of method calls under way, tokenising included
    waiting_calls  number of calls whose texts wait for a batch or are in one
    ram_bytes      the host's memory that the plan gives to the model, in bytes
    vram_bytes     the GPU's, in bytes; 0 on a CPU
    """

    batches: int
    tokens: int
    calls: int
    waiting_calls: int
    ram_bytes: int
    vram_bytes: int
