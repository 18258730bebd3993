"""Uncommitted blobs: any process stages blocks in any order; one commit makes them the blob.

Azure keeps staged blocks beside a blob, invisible, until a Put Block List names those that form its content,
in order. That commit is atomic and can depend on what exists. Blocks that are never named are dropped after a
week (learn.microsoft.com, "Put Block"). A block's identifier contains its run and which bytes it holds, so
blocks of a run that died are never taken for those of another.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from gdaltools.errors import GdalToolsError, SourceChanged, SourceNotFound, StorageError, TargetExists
from gdaltools.runtime.interruption import Interruption
from gdaltools.storage.azure import accounts, blobs
from gdaltools.storage.azure.retries import with_retries
from gdaltools.storage.store import BlobTraits

#: The most blocks of a blob (learn.microsoft.com, "Scalability targets for Blob storage").
MOST_BLOCKS = 50_000
#: Bytes of a block that is sent, more only if a blob would have too many blocks; an error costs one block.
BLOCK_BYTES = 4 << 20
#: The most bytes that wait to be sent.
WAITING_BYTES = 16 << 20
_SENDERS = 4
_RUN_KEY = "gdaltools_run"
# The name of the bytes of a whole file that is staged in blocks.
_WHOLE = "whole"


@dataclass(frozen=True)
class UncommittedBlob:
    """A blob whose blocks are being staged; a value that can be sent to other processes and machines.

    Attributes
    ----------
    run : str
        16 hexadecimal digits that identify this assembly of the blob.
    """

    container: str
    name: str
    run: str = field(default_factory=lambda: uuid4().hex[:16])

    @property
    def where(self) -> str:
        """The name that errors use."""
        return blobs.where(self.container, self.name)

    def reachable(self) -> bool:
        """Return whether this process, perhaps on another machine, knows the account."""
        try:
            accounts.account_of(self.container)
        except GdalToolsError:
            return False
        return True

    def stage(self, what: str, offset: int, data: bytes) -> None:
        """Stage the bytes from `offset` of `what`; staging them again changes nothing.

        Raises
        ------
        StorageError
            Azure did not accept them within the retry budget.
        """
        blob = blobs.client(self.container, self.name)
        block = self._block_id(what, offset)
        stage = partial(blob.stage_block, block, data, length=len(data))
        blobs.in_container(self.container, lambda: with_retries(stage, where=self.where))

    def staged(self) -> Mapping[str, int]:
        """Return the sizes of this run's staged blocks, by identifier."""
        blob = blobs.client(self.container, self.name)
        try:
            _, waiting = with_retries(lambda: blob.get_block_list("all"), where=self.where)
        except SourceNotFound:
            return {}
        return {block.id: block.size for block in waiting if block.id.startswith(self.run)}

    def order(self, parts: Iterable[tuple[str, int, int]]) -> list[str]:
        """Return the identifiers of the blocks that hold the bytes (what, offset, length), in sequence.

        Raises
        ------
        StorageError
            A block is missing, or there are too many.
        """
        staged = self.staged()
        blocks: list[str] = []
        for what, offset, length in parts:
            end = offset + length
            while offset < end:
                block = self._block_id(what, offset)
                size = staged.get(block, 0)
                if not size or offset + size > end:
                    raise StorageError(
                        f"{self.where}: staged block {what} at {offset} is gone, as when another writes "
                        "to this blob: try again"
                    )
                blocks.append(block)
                offset += size
        if len(blocks) > MOST_BLOCKS:
            raise StorageError(f"{self.where} has {len(blocks)} blocks: Azure allows {MOST_BLOCKS}")
        return blocks

    def commit(
        self, blocks: Sequence[str], size: int, traits: BlobTraits, *, overwrite: bool
    ) -> blobs.Properties:
        """Commit these blocks as the blob; they must have `size` bytes.

        With ``overwrite=False`` only if no blob exists. Afterwards the blob's run and size are checked.

        Raises
        ------
        TargetExists
            A blob exists by now, and `overwrite` is False.
        StorageError
            Azure did not accept the commit, or has another blob than was committed.
        """
        from azure.core import MatchConditions
        from azure.storage.blob import BlobBlock, ContentSettings

        blob = blobs.client(self.container, self.name)
        listed = [BlobBlock(block_id=block) for block in blocks]
        condition = {} if overwrite else {"match_condition": MatchConditions.IfMissing}

        def put() -> None:
            blob.commit_block_list(
                listed,
                content_settings=ContentSettings(content_type=traits.content_type),
                standard_blob_tier=_tier(traits),
                metadata={_RUN_KEY: self.run},
                **condition,
            )

        return self._published(put, size, overwrite=overwrite)

    def put(self, data: bytes, traits: BlobTraits, *, overwrite: bool) -> blobs.Properties:
        """Store bytes that fit into one request as the blob; otherwise as `commit`."""
        from azure.storage.blob import ContentSettings

        blob = blobs.client(self.container, self.name)

        def put() -> None:
            blob.upload_blob(
                data,
                overwrite=overwrite,
                content_settings=ContentSettings(
                    content_type=traits.content_type, content_md5=bytearray(hashlib.md5(data).digest())
                ),
                standard_blob_tier=_tier(traits),
                metadata={_RUN_KEY: self.run},
            )

        return blobs.in_container(
            self.container, lambda: self._published(put, len(data), overwrite=overwrite)
        )

    def _published(self, put: Callable[[], None], size: int, *, overwrite: bool) -> blobs.Properties:
        try:
            with_retries(put, where=self.where)
        except (TargetExists, StorageError) as error:
            # The answer to an attempt that succeeded may have been lost on the way.
            with suppress(GdalToolsError):
                found = blobs.properties(self.container, self.name)
                if found.metadata.get(_RUN_KEY) == self.run and found.size == size:
                    return found
            if isinstance(error, SourceChanged) and not overwrite:
                raise blobs.exists(self.container, self.name) from None
            raise
        found = blobs.properties(self.container, self.name)
        if found.metadata.get(_RUN_KEY) != self.run:
            raise SourceChanged(f"{self.where} was replaced by somebody else right after it was written")
        if found.size != size:
            raise StorageError(f"{self.where} holds {found.size} of {size} bytes: try again")
        return found

    def _block_id(self, what: str, offset: int) -> str:
        """Return 44 characters for any `what`: all identifiers of a blob must have one length."""
        digest = hashlib.blake2b(what.encode(), digest_size=6).hexdigest()
        return f"{self.run}{digest}{offset:016x}"


def _tier(traits: BlobTraits) -> Any:
    from azure.storage.blob import StandardBlobTier

    return StandardBlobTier(traits.access_tier) if traits.access_tier else None


class Uploads:
    """Threads that send requests; `send` waits while more than `WAITING_BYTES` would be waiting.

    The error of a request is raised by the next `send`, and by `finish`.
    """

    def __init__(self) -> None:
        self._interruption = Interruption()
        self._pool = ThreadPoolExecutor(_SENDERS, "upload", initializer=self._interruption.watch)
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._interruption.request()
        self._pool.shutdown(cancel_futures=error is not None)

    def send(self, size: int, request: Callable[[], None]) -> None:
        """Queue a request of `size` bytes; it is sent later by one of the threads."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting_bytes or self._waiting_bytes + size <= WAITING_BYTES or self._error
            )
            self._raise()
            self._waiting_bytes += size
        self._pool.submit(request).add_done_callback(lambda future: self._ended(future, size))

    def finish(self) -> None:
        """Wait until everything is sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes)
            self._raise()

    def _ended(self, future: Future[None], size: int) -> None:
        with self._changed:
            self._waiting_bytes -= size
            if not future.cancelled() and (error := future.exception()) is not None:
                self._error = self._error or error
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def put_file(path: Path, blob: UncommittedBlob, traits: BlobTraits, *, overwrite: bool) -> blobs.Properties:
    """Store a local file as a blob, complete or not at all."""
    size = path.stat().st_size
    if size <= BLOCK_BYTES:
        return blob.put(path.read_bytes(), traits, overwrite=overwrite)
    step = max(BLOCK_BYTES, -(-size // MOST_BLOCKS))
    with path.open("rb") as stream:
        return _in_blocks(blob, size, step, lambda at: os.pread(stream.fileno(), step, at), traits, overwrite)


def copy_blob(source: tuple[str, str], target: UncommittedBlob, *, overwrite: bool) -> blobs.Properties:
    """Copy a blob: by Azure itself if one request can, else in blocks through this process."""
    found = blobs.properties(*source)
    same_account = accounts.account_of(source[0]) == accounts.account_of(target.container)
    if same_account and found.size <= blobs.LARGEST_COPY_BYTES:
        blobs.copy_small(source, (target.container, target.name), etag=found.etag, overwrite=overwrite)
        made = blobs.properties(target.container, target.name)
        if made.size != found.size:
            raise StorageError(f"{target.where} holds {made.size} of {found.size} bytes: try again")
        return made
    step = max(BLOCK_BYTES, -(-found.size // MOST_BLOCKS))

    def read(at: int) -> bytes:
        return blobs.read_range(*source, at, min(step, found.size - at), etag=found.etag)

    traits = BlobTraits(found.content_type)
    return _in_blocks(target, found.size, step, read, traits, overwrite)


def _in_blocks(
    blob: UncommittedBlob,
    size: int,
    step: int,
    read: Callable[[int], bytes],
    traits: BlobTraits,
    overwrite: bool,
) -> blobs.Properties:
    def send(at: int) -> None:
        blob.stage(_WHOLE, at, read(at))

    with Uploads() as uploads:
        for at in range(0, size, step):
            uploads.send(step, partial(send, at))
        uploads.finish()
    return blob.commit(blob.order([(_WHOLE, 0, size)]), size, traits, overwrite=overwrite)
