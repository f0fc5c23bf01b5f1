"""What models are asked, where the user says nothing else."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

_SCENE = """\
Watch the video from start to end and write its caption: one paragraph of plain English, without headings or lists.

Open with the point of view: what kind of camera this is, from where it looks, and whether it stays, turns or \
travels. Then describe the opening picture: the place, the light, the people and things that matter, and where they \
are in relation to each other. Go on with what happens, in order: who or what moves, in which direction and how \
fast, what touches, carries, hits or blocks what, and what comes of it. Movement deserves more words than \
appearance. Keep every object the same one throughout, also while something hides it."""

_TRUTH = """\
Describe only what can be seen. Choose exact verbs. Do not guess at thoughts, intentions or sounds, and do not judge \
how the video looks. Pass over logos, watermarks, captions, clocks and whatever else was laid over the picture, and \
do not read out signs, names or number plates."""

_DRIVING = """\
You see a recording of road traffic made from a vehicle. Write its caption: one paragraph of plain English, without \
headings or lists.

Open with the point of view: where on the vehicle the camera sits, which way it looks, and whether the vehicle \
drives, turns, waits or reverses. Then describe the opening picture: the kind of road, its lanes, markings and \
junctions, signals and what they show, the surface, weather and light, and the road users with their lane, distance \
and heading. Go on with what happens, in order: how the recording vehicle moves, and how the others do: \
accelerating, braking, yielding, merging, changing lanes, overtaking, turning, crossing. Say what makes one react to \
another, how large the gap is, and whether it comes to a near miss, a contact, or something in the way. Pedestrians, \
cyclists, animals and loose objects on or beside the road always deserve a mention."""

_SURVEILLANCE = """\
You see a recording of traffic from a camera that watches a place. Write its caption: one paragraph of plain \
English, without headings or lists.

Open with the point of view: how high the camera is mounted, which way it looks, whether it is fixed or turns, and \
what part of the road, junction, car park or yard it covers. Then describe the opening picture: lanes, stop lines, \
crossings and signals with what they show, surface, weather and light, how busy it is, and where vehicles and people \
stand. Go on with what happens, in order: follow each road user that matters from where it enters to where it leaves \
or stops, with its kind, colour, lane, direction and change of speed. Tell plainly what is out of the ordinary: a \
collision or near miss, someone on the wrong side or crossing against the signal, a vehicle that has broken down, a \
blocked junction, a fallen load; and what led to it, as far as the pictures show. Where nothing of the kind happens, \
describe the flow."""

CAPTION_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "default": f"{_SCENE}\n\n{_TRUTH}",
        "av": f"{_DRIVING}\n\n{_TRUTH}",
        "av-surveillance": f"{_SURVEILLANCE}\n\n{_TRUTH}",
    }
)
"""By the name that a config gives them."""

_REWRITE = """\
You edit captions of short videos, which are used to train models. The user gives you one caption. Answer with a \
better one and nothing else: a single paragraph of fluent English."""

_FAITH = """\
Keep every fact and the order of events. You have not seen the video: add no object, action, cause or number that \
the caption does not state or plainly imply. Leave out repetition, praise, guesses, remarks about the caption \
itself, and anything on logos, overlaid text, clocks or number plates."""

_SCENE_EDIT = """\
Begin with the camera and the scene, then tell the action with exact verbs, so that who does what to what, where and \
in which direction is clear."""

_DRIVING_EDIT = """\
The video was made from a vehicle. Begin with the camera and the road, then tell how the recording vehicle and the \
other road users move and react, in the terms of driving: lane, junction, yield, merge, brake, overtake."""

_SURVEILLANCE_EDIT = """\
The video comes from a camera that watches traffic. Begin with the camera and the place, then follow the road users in \
the terms of traffic observation: approach, lane, signal, queue, conflict, collision; put what is out of the ordinary \
plainly."""

ENHANCEMENT_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "default": f"{_REWRITE} {_SCENE_EDIT}\n\n{_FAITH}",
        "av": f"{_REWRITE} {_DRIVING_EDIT}\n\n{_FAITH}",
        "av-surveillance": f"{_REWRITE} {_SURVEILLANCE_EDIT}\n\n{_FAITH}",
    }
)
"""By the name that a config gives them."""

_STAGE2 = """\
Below is a first caption of this video. Watch the video again and check it. Correct what is wrong, take out what \
cannot be seen, and add what was missed: movements, contacts, and changes between the first picture and the last. \
Answer with the corrected caption and nothing else, in one paragraph of plain English."""


def caption_prompt(variant: str, text: str | None = None) -> str:
    """What a model is asked about a window.

    Args:
        variant: one of ``CAPTION_PROMPTS``.
        text: takes its place.

    Raises:
        ValueError: the variant is unknown.
    """
    return _chosen(CAPTION_PROMPTS, variant, text)


def enhancement_prompt(variant: str, text: str | None = None) -> str:
    """What a text model is told to do with a caption.

    Args:
        variant: one of ``ENHANCEMENT_PROMPTS``.
        text: takes its place.

    Raises:
        ValueError: the variant is unknown.
    """
    return _chosen(ENHANCEMENT_PROMPTS, variant, text)


def stage2_prompt(text: str | None, first_caption: str) -> str:
    """What a model is asked about a window that it has captioned once.

    Args:
        text: takes the place of the built-in request.
    """
    return f"{text or _STAGE2}\n\nFirst caption:\n{first_caption}"


def prompt_hash(text: str) -> str:
    """Names a prompt in the records: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _chosen(texts: Mapping[str, str], variant: str, text: str | None) -> str:
    if variant not in texts:
        raise ValueError(f"unknown prompt variant {variant!r}; known: {', '.join(texts)}")
    return text or texts[variant]
