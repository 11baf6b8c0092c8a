"""The allocation language: its one parser and its one formatter.

    full     = expert "#" device [ ";" number ";" donors ]      what saved workflows and logs hold
    donors   = device { "," device }
    expert   = "" | "auto" | share { ";" share } [ ";" ]
    share    = device "," amount
    amount   = "*" | number [ unit ] [ "*" ]
    unit     = "b" | "k" | "kb" | "m" | "mb" | "g" | "gb" | "t" | "tb" | "%"
    number   = digits [ "." digits ] | "." digits | digits "/" digits

White space and case do not matter. The units of the amounts decide the mode: bytes, percent of the model (normalised),
or, without a unit, fractions of each device's whole memory; one string has one mode. ``*`` marks the device that takes
the rest: what the other devices leave of the model, or, in percent, what they leave of 100 %. ``5gb*`` is 5 GB or more.
Without a ``*`` the rest of a byte or fraction string goes to cpu.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from fractions import Fraction

from multigpu.multigpu_core.strategies.strategy import Strategy

from .amounts import GIB, LARGEST_BYTES, NUMBER, UNIT_BYTES, format_bytes, format_number, parse_number
from .device_names import KnownDevices, resolve
from .request import AllocationMode, AllocationRequest, Share
from .source_span import SourceSpan

AUTO_WORD = "auto"
MAX_CHARACTERS = 4000
"""Limit for a whole string: more than a machine with a hundred devices needs."""
MAX_AMOUNT_CHARACTERS = 100
"""Limit for one amount, white space included."""
_AMOUNT = re.compile(rf"(?P<number>{NUMBER})?\s*(?P<unit>[a-zµ%]*)\s*(?P<star>\*?)", re.IGNORECASE)
_AMOUNT_EXAMPLE = "An amount is like 2.5gb, 500mb, 25%, 0.25 or *"
_MODE_NAMES = {
    AllocationMode.BYTES: "bytes (2.5gb)",
    AllocationMode.RATIO: "percent of the model (25%)",
    AllocationMode.FRACTION: "fractions of a device's memory (0.25)",
}


def parse_expert(
    text: str, *, compute_device: str, known: KnownDevices, strategy: Strategy = Strategy.INTERLEAVE
) -> AllocationRequest:
    """The request that an expert string makes for a model computed on `compute_device`.

    An empty string asks for an ordinary load. Raises AllocationError for a string that is not of the language.
    """
    compute = resolve(SourceSpan.of(compute_device, "Compute device"), known)
    return _parse_expert(SourceSpan.of(text), AllocationRequest(compute, strategy=strategy), known)


def parse_full(text: str, *, known: KnownDevices, strategy: Strategy = Strategy.INTERLEAVE) -> AllocationRequest:
    """The request in the full form ``EXPERT#compute`` or ``EXPERT#compute;gigabytes;donors``; an expert string wins.

    Raises AllocationError for a string that is not of the language.
    """
    whole = SourceSpan.of(text)
    _refuse_long(whole)
    parts = whole.split("#")
    if len(parts) != 2:
        raise whole.error("The full form has one '#', before the compute device.", "Like: cuda:1,4gb;cpu,*#cuda:0")
    expert, tail = parts
    fields = tail.split(";")
    plain = AllocationRequest(resolve(fields[0], known), strategy=strategy)
    if expert.text:
        return _parse_expert(expert, plain, known)
    if len(fields) == 1:
        return plain
    if len(fields) != 3:
        raise tail.error("After '#' come the compute device, gigabytes and donors.", "For example: #cuda:0;4;cpu")
    try:
        gigabytes = parse_number(fields[1].text)
    except ValueError as error:
        raise fields[1].error(f"The gigabytes of virtual VRAM: {error}.", "For example: 4.0") from None
    return with_virtual_vram(plain, fields[1], gigabytes, parse_donors(fields[2], known))


def format_expert(request: AllocationRequest) -> str:
    """The expert string of `request`: empty for an ordinary load and for virtual VRAM, which has none."""
    if request.mode is AllocationMode.AUTO:
        return AUTO_WORD
    bare_star = request.mode is AllocationMode.BYTES or len(request.shares) > 1
    return ";".join(f"{share.device},{_format_amount(share, request.mode, bare_star)}" for share in request.shares)


def format_request(request: AllocationRequest) -> str:
    """The full form of `request`; with the same strategy `parse_full` reads exactly `request` back."""
    tail = request.compute_device
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        gigabytes = format_number(Fraction(request.virtual_vram_bytes, GIB))
        tail = f"{tail};{gigabytes};{','.join(request.donors)}"
    return f"{format_expert(request)}#{tail}"


def parse_donors(donors: SourceSpan, known: KnownDevices) -> tuple[str, ...]:
    """The donors in a list with commas or semicolons, in order; raises AllocationError for a wrong or repeated name."""
    _refuse_long(donors)
    names: list[str] = []
    for span in donors.split("," if "," in donors.text else ";"):
        if not span.text:
            raise span.error("A donor's name is missing.", "For example: cuda:1,cpu")
        name = resolve(span, known)
        if name in names:
            raise span.error(f"{name} is named twice.", "Name every donor once, in the order in which to fill them.")
        names.append(name)
    return tuple(names)


def with_virtual_vram(
    plain: AllocationRequest, amount: SourceSpan, gigabytes: Fraction, donors: tuple[str, ...]
) -> AllocationRequest:
    """`plain` with that many gigabytes moved to `donors`; nothing to move, or nowhere to move it, leaves it plain."""
    size = int(gigabytes * GIB)
    if size > LARGEST_BYTES:
        raise amount.error("That is more memory than any device has.", "Virtual VRAM is in gigabytes, for example 4.0")
    donors = tuple(name for name in donors if name != plain.compute_device)
    if size == 0 or not donors:
        return plain
    return dataclasses.replace(plain, mode=AllocationMode.VIRTUAL_VRAM, virtual_vram_bytes=size, donors=donors)


def _parse_expert(expert: SourceSpan, plain: AllocationRequest, known: KnownDevices) -> AllocationRequest:
    _refuse_long(expert)
    if not expert.text:
        return plain
    if expert.text.lower() == AUTO_WORD:
        return dataclasses.replace(plain, mode=AllocationMode.AUTO)
    spans = expert.split(";")
    if not any(span.text for span in spans):
        raise expert.error(
            "There are separators, but no device.", "Leave the string empty for no split, or write auto."
        )
    if len(spans) > 1 and not spans[-1].text:
        spans.pop()
    mode: AllocationMode | None = None
    shares: dict[str, Share] = {}
    for span in spans:
        device, amount = _split_share(span)
        own_mode, share = _parse_amount(amount, resolve(device, known))
        if mode and own_mode and own_mode is not mode:
            raise amount.error(
                f"This string mixes {_MODE_NAMES[mode]} with {_MODE_NAMES[own_mode]}.",
                "Give all devices amounts of one kind.",
            )
        if share.device in shares:
            raise device.error(f"{share.device} is named twice.", "Give every device one share.")
        if share.takes_rest and any(other.takes_rest for other in shares.values()):
            raise amount.error("Two devices have a '*'; only one can take the rest.", "Give one of them an amount.")
        mode = mode or own_mode
        shares[share.device] = share
    request = dataclasses.replace(plain, mode=mode or AllocationMode.BYTES, shares=tuple(shares.values()))
    _check_sum(expert, request)
    return request


def _refuse_long(span: SourceSpan) -> None:
    size = span.end - span.start
    if size > MAX_CHARACTERS:
        reason = f"It has {size} characters; {MAX_CHARACTERS} is the limit."
        raise span.part(MAX_CHARACTERS, size).error(reason, "Name each device once, with a short amount.")


def _split_share(span: SourceSpan) -> tuple[SourceSpan, SourceSpan]:
    """A share's device and amount, both there."""
    parts = span.split(",")
    example = "Write device,amount and separate devices with ';', like cuda:0,2.5gb;cpu,*"
    if not span.text:
        raise span.error("There is no device here.", example)
    if len(parts) == 1:
        words = span.text.split()
        fixed = f"Write {words[0]},{''.join(words[1:])}" if len(words) > 1 else example
        raise span.error("A comma is missing between the device and its amount.", fixed)
    if len(parts) > 2:
        raise parts[2].error("A second comma in one share.", example + "; decimals have a point.")
    device, amount = parts
    if not device.text:
        raise span.error("The device before the comma is missing.", example)
    if not amount.text:
        raise span.error("The amount after the comma is missing.", f"Like: {device.text},2.5gb or {device.text},*")
    return device, amount


def _parse_amount(span: SourceSpan, device: str) -> tuple[AllocationMode | None, Share]:
    """The mode that an amount's unit speaks for (a bare ``*`` fits in all) and the share that it gives `device`."""
    if span.end - span.start > MAX_AMOUNT_CHARACTERS:
        reason = f"An amount of {span.end - span.start} characters is too long."
        raise span.error(reason, _AMOUNT_EXAMPLE)
    match = _AMOUNT.fullmatch(span.text)
    if match is None or (match["number"] is None and span.text != "*"):
        raise span.error(_amount_reason(span.text), _AMOUNT_EXAMPLE)
    takes_rest = bool(match["star"])
    if match["number"] is None:
        return None, Share(device, Fraction(0), takes_rest=True)
    number = span.part(*match.span("number"))
    try:
        value = parse_number(number.text)
    except ValueError as error:
        raise number.error(f"{str(error).capitalize()}.", _AMOUNT_EXAMPLE) from None
    unit = match["unit"].lower()
    if unit == "%":
        return AllocationMode.RATIO, Share(device, value, takes_rest)
    if unit in UNIT_BYTES:
        size = int(value * UNIT_BYTES[unit])
        if size > LARGEST_BYTES:
            raise span.error("That is more memory than any device has.", "Check the unit: b, kb, mb, gb or tb.")
        return AllocationMode.BYTES, Share(device, Fraction(size), takes_rest)
    if unit:
        nearest = difflib.get_close_matches(unit, UNIT_BYTES, n=1, cutoff=0.1) or ["gb"]
        raise span.part(*match.span("unit")).error(
            f"'{match['unit']}' is not a unit; the units are b, kb, mb, gb, tb and %.",
            f"Did you mean {number.text}{nearest[0]}?",
        )
    if value > 1:
        raise span.error(
            f"A plain number is a fraction of the device's memory, and {number.text} is more than all of it.",
            f"Did you mean {number.text}gb or {number.text}%?",
        )
    return AllocationMode.FRACTION, Share(device, value, takes_rest)


def _amount_reason(amount: str) -> str:
    word = amount.lower().lstrip("+-")
    if word.rstrip("bkmgt%*") in ("nan", "inf", "infinity"):
        return f"'{amount}' is not a finite number."
    if amount.startswith("-"):
        return f"'{amount}' is negative."
    return f"'{amount}' is not an amount."


def _check_sum(expert: SourceSpan, request: AllocationRequest) -> None:
    total = sum(share.amount for share in request.shares)
    has_star = any(share.takes_rest for share in request.shares)
    if total == 0 and not has_star:
        raise expert.error("The shares add up to nothing.", "Give a device more than 0, or a '*' for the rest.")
    if request.mode is AllocationMode.RATIO and has_star and total > 100:
        raise expert.error(
            f"The shares add up to {format_number(Fraction(total))} %, which leaves nothing for '*'.",
            "Give '*' its own percentage, or lower the others.",
        )


def _format_amount(share: Share, mode: AllocationMode, bare_star: bool) -> str:
    star = "*" if share.takes_rest else ""
    if star and bare_star and not share.amount:
        return star
    if mode is AllocationMode.BYTES:
        return format_bytes(int(share.amount)) + star
    return format_number(share.amount) + ("%" if mode is AllocationMode.RATIO else "") + star
