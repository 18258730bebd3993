"""A blob in the making: blocks staged in any order by any process, which become the blob all at once.

Azure keeps staged blocks beside a blob, invisible, until a Put Block List names those that make up its
content, in their order; that commit is atomic and can be made to depend on what is there. Blocks that are
never named are dropped after a week (learn.microsoft.com, "Put Block"). A block's identifier says whose run
it is of and which bytes of what, so that blocks of a run that died are taken for nobody's data.
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

#: Blocks that a blob can have (learn.microsoft.com, "Scalability targets for Blob storage").
MOST_BLOCKS = 50_000
#: A block of this size or less is sent at a time; an error costs one of them.
BLOCK_BYTES = 4 << 20
#: What waits to be sent at most, in bytes.
WAITING_BYTES = 16 << 20
_SENDERS = 4
_RUN_KEY = "gdaltools_run"
# A file's bytes, as the one thing that is stored in blocks of it.
_WHOLE = "whole"


@dataclass(frozen=True)
class UncommittedBlob:
    """A blob that is being put together; a value that may be sent to other processes and machines.

    Attributes
    ----------
    run : str
        16 hexadecimal digits of this making of the blob alone.
    """

    container: str
    name: str
    run: str = field(default_factory=lambda: uuid4().hex[:16])

    @property
    def where(self) -> str:
        """What errors call it."""
        return blobs.where(self.container, self.name)

    def reachable(self) -> bool:
        """Whether this process, perhaps on another machine, knows the account."""
        try:
            accounts.account_of(self.container)
        except GdalToolsError:
            return False
        return True

    def stage(self, what: str, offset: int, data: bytes) -> None:
        """Keep bytes from `offset` of `what`; staging them again changes nothing.

        Raises
        ------
        StorageError
            Azure did not take them within the budget of retries.
        """
        blob = blobs.client(self.container, self.name)
        block = self._block_id(what, offset)
        try:
            with_retries(lambda: blob.stage_block(block, data, length=len(data)), where=self.where)
        except SourceNotFound:
            blobs.make_container(self.container)
            with_retries(lambda: blob.stage_block(block, data, length=len(data)), where=self.where)

    def staged(self) -> Mapping[str, int]:
        """Sizes of the blocks of this run that Azure keeps, by identifier."""
        blob = blobs.client(self.container, self.name)
        try:
            _, waiting = with_retries(lambda: blob.get_block_list("all"), where=self.where)
        except SourceNotFound:
            return {}
        return {block.id: block.size for block in waiting if block.id.startswith(self.run)}

    def order(self, parts: Iterable[tuple[str, int, int]]) -> list[str]:
        """Identifiers of the blocks that hold the bytes (what, offset, length), one after the other.

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
        """Make the blob of these blocks, which must be `size` bytes.

        With ``overwrite=False`` only where nothing is. What Azure then has is compared with what was meant.

        Raises
        ------
        TargetExists
            Something is there by now, and `overwrite` is False.
        StorageError
            Azure did not take it, or has something else.
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
        """Make the blob of bytes that go into one request; else as `commit`."""
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

        try:
            return self._published(put, len(data), overwrite=overwrite)
        except SourceNotFound:
            blobs.make_container(self.container)
            return self._published(put, len(data), overwrite=overwrite)

    def _published(self, put: Callable[[], None], size: int, *, overwrite: bool) -> blobs.Properties:
        try:
            with_retries(put, where=self.where)
        except (TargetExists, StorageError) as error:
            # The answer to an attempt that went through may have been lost on the way.
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
        """44 characters, whatever it is of: all identifiers of a blob must have one length."""
        digest = hashlib.blake2b(what.encode(), digest_size=6).hexdigest()
        return f"{self.run}{digest}{offset:016x}"


def _tier(traits: BlobTraits) -> Any:
    from azure.storage.blob import StandardBlobTier

    return StandardBlobTier(traits.access_tier) if traits.access_tier else None


class Uploads:
    """Threads that send, and the bytes that wait for them; who brings more than may wait is kept waiting.

    An error of one is raised to whoever brings the next, and at the end.
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
            self._interruption.tell()
        self._pool.shutdown(cancel_futures=error is not None)

    def send(self, size: int, request: Callable[[], None]) -> None:
        """Have a request of `size` bytes made, by and by."""
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
    """Make a blob of a local file, whole or not at all."""
    size = path.stat().st_size
    if size <= BLOCK_BYTES:
        return blob.put(path.read_bytes(), traits, overwrite=overwrite)
    step = max(BLOCK_BYTES, -(-size // MOST_BLOCKS))
    with path.open("rb") as stream:
        return _in_blocks(blob, size, step, lambda at: os.pread(stream.fileno(), step, at), traits, overwrite)


def copy_blob(source: tuple[str, str], target: UncommittedBlob, *, overwrite: bool) -> blobs.Properties:
    """Copy a blob, in Azure where one request does it, else in blocks through this process."""
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
