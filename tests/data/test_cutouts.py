"""Cut-outs on photographs: nothing in two splits, nothing damaged taken, the same bytes again."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from methods.data import archives
from methods.data.builders import cutouts


def picture(colour, alpha=True, size=(40, 30), kind="PNG"):
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, 255
    if alpha:
        pixels[:5], pixels[:, :5] = 0, 0
    body = io.BytesIO()
    Image.fromarray(pixels).convert("RGBA" if kind == "PNG" else "RGB").save(body, kind)
    return body.getvalue()


def package(members):
    """A Debian package: an `ar` archive whose third member is the tar of the files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo("./" + name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    found = b"!<arch>\n"
    for name, body in {"debian-binary": b"2.0\n", "data.tar.gz": data.getvalue()}.items():
        found += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body
        found += b"\n" * (len(body) % 2)
    return found


def colours(base):
    return [(*base[:2], 10 * number) for number in range(8)]


REDS = {f"red/{n}.png": picture(c) for n, c in enumerate(colours((250, 0)))}
GREENS = {f"green/{n}.png": picture(c) for n, c in enumerate(colours((0, 250)))}
SCENES = {f"scenes/{n}.jpg": picture((n * 30,) * 3, False, (90, 70), "JPEG") for n in range(4)}


def files(**more):
    return {"a.deb": package(REDS | GREENS | more), "b.deb": package(SCENES)}


def options(**changes):
    return cutouts.Options.model_validate(
        {
            "name": "cutouts",
            "size": 16,
            "classes": {"red": {"a.deb": ["red"]}, "green": {"a.deb": ["green/"]}},
            "scenes": {"b.deb": ["scenes"]},
            "shares": {"train": 0.5, "test": 0.5},
            "images": {"train": 60, "test": 40},
            **changes,
        }
    )


def test_images_show_the_object_of_their_class():
    built = cutouts.build(files(), options())
    train = built["train"]
    assert train.x.shape == (60, 16, 16, 3)
    assert built["test"].x.shape == (40, 16, 16, 3)
    assert train.classes == ["red", "green"]
    assert train.y.tolist() == [0, 1] * 30
    middle = train.x[:, 4:12, 4:12].astype(int).mean((1, 2))
    assert ((middle[:, 0] > middle[:, 1]) == (train.y == 0)).all()


def test_the_same_bytes_again_and_an_image_does_not_depend_on_how_many_there_are():
    first = cutouts.build(files(), options())["train"].x
    again = cutouts.build(files(), options(images={"train": 20, "test": 40}))["train"].x
    assert np.array_equal(first[:20], again)


def test_no_object_and_no_scene_is_in_two_splits():
    packages = cutouts._members(files(), options())
    reds = cutouts._split(packages["a.deb"], {"train": 0.5, "test": 0.5}, "red", 48)
    train, test = ({image.tobytes() for image in reds[split]} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_copies_count_once_and_a_picture_of_two_classes_not_at_all():
    one, two, three = (picture(c) for c in colours((9, 9))[:3])
    found = cutouts.distinct([{"a": one, "copy of a": one, "b": two}, {"c": two, "d": three}])
    assert [len(names) for names in found] == [1, 1]
    assert list(found[0].values()) == [one]
    assert list(found[1].values()) == [three]


def test_pictures_without_transparency_and_too_large_ones_are_left_out():
    assert cutouts.picture(picture((1, 2, 3), alpha=False), "x", 48) is None
    large = picture((1, 2, 3), size=(cutouts.LARGEST_SIDE + 1, 10))
    assert cutouts.picture(large, "x", 48) is None
    assert max(cutouts.picture(picture((1, 2, 3)), "x", 48).size) == 48


@pytest.mark.parametrize("body", [b"no picture", REDS["red/0.png"][:60]])
def test_a_damaged_picture_is_named(body):
    with pytest.raises(ValueError, match=r"red/x\.png is no picture"):
        cutouts.build(files(**{"red/x.png": body}), options())


def test_a_folder_that_is_not_there_and_a_split_that_gets_nothing_are_named():
    with pytest.raises(ValueError, match=r"a\.deb holds no picture under blue"):
        cutouts.build(
            files(), options(classes={"red": {"a.deb": ["red"]}, "x": {"a.deb": ["blue"]}})
        )
    with pytest.raises(ValueError, match="leave none for the split test"):
        cutouts.build(files(), options(shares={"train": 0.99, "test": 0.01}))


def test_options_that_contradict_themselves_are_refused():
    with pytest.raises(ValidationError, match="`shares` has the splits"):
        options(images={"train": 60})
    with pytest.raises(ValidationError, match="fewer images than classes"):
        options(images={"train": 60, "test": 1})


def test_a_package_is_read_in_memory_and_a_damaged_one_is_refused(tmp_path):
    whole = package(REDS)
    (tmp_path / "a.deb").write_bytes(whole)
    assert archives.read_members(tmp_path / "a.deb", {".": 10**6}) == {".": whole}
    with pytest.raises(archives.ArchiveError, match="larger than the 10 bytes"):
        archives.read_members(tmp_path / "a.deb", {".": 10})
    assert archives.members_under(whole, ("red/",), (".png",)) == REDS
    with pytest.raises(archives.ArchiveError, match="damaged"):
        archives.members_under(whole[:-200], ("red/",), (".png",))
