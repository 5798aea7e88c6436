"""Small sets in the layouts of published benchmarks; an image is an empty file with its name."""

import json

SUBJECTS = ("Ada", "Bea", "Cid", "Dov", "Eva", "Fay")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def youtube_faces(folder):
    """Four subjects with two videos of three frames, two splits."""
    for subject in SUBJECTS[:4]:
        for video in (0, 1):
            touch(folder / "frames", *(f"{subject}/{video}/{video}.{i}.jpg" for i in range(3)))
    lines = ["split number, pair number in split, first name, second name, is same"]
    lines += [f"{1 + i // 2}, {i}, {s}/0, {s}/1, 1" for i, s in enumerate(SUBJECTS[:4])]
    lines += ["1, 3, Ada/0, Bea/1, 0", "1, 4, Ada/1, Cid/1, 0", "2, 3, Cid/0, Dov/1, 0", "2, 4, Bea/0, Dov/0, 0"]
    return write(folder / "splits.txt", *lines), folder / "frames"


def ijb(folder, prefix="ijbc"):
    """Templates 10 s + 1 (gallery) and 10 s + 2 (probe) of subject s; 4 and 5 are in no gallery.

    A template has a photograph and a video of three frames.
    """
    meta, root = folder / "meta", folder / "aligned"
    faces, points = [], []
    for subject in range(6):
        for template in (10 * subject + 1, 10 * subject + 2):
            names = [f"img/{template}_p.jpg", *(f"frames/{template}_{i}.jpg" for i in range(3))]
            touch(root, *names)
            media = [1000 + template, *[2000 + template] * 3]
            faces += [f"{n} {template} {m}" for n, m in zip(names, media, strict=True)]
            points += [f"{name} {' '.join('30.5' for _ in range(10))} 0.9" for name in names]
    write(meta / f"{prefix}_face_tid_mid.txt", *faces)
    write(meta / f"{prefix}_name_5pts_score.txt", *points)
    pairs = [f"{10 * s + 1} {10 * s + 2} 1" for s in range(6)]
    pairs += [f"{10 * s + 1} {10 * ((s + 1) % 6) + 2} 0" for s in range(6)]
    write(meta / f"{prefix}_template_pair_label.txt", *pairs)
    one, two = ("G1", "G2") if prefix == "ijbc" else ("S1", "S2")
    header = "TEMPLATE_ID,SUBJECT_ID"
    write(meta / f"{prefix}_1N_gallery_{one}.csv", header, "1,100", "11,101")
    write(meta / f"{prefix}_1N_gallery_{two}.csv", header, "21,102", "31,103")
    probes = [f"{10 * s + 2},{100 + s}" for s in range(6)]
    write(meta / f"{prefix}_1N_probe_mixed.csv", header, *probes)
    return meta, root


def megaface(folder):
    """Three subjects with three images each among twelve distractors."""
    probes = [(s, f"{s}/{s}_{i}.png") for s in SUBJECTS[:3] for i in range(3)]
    distractors = [f"{i // 4}/{i}.jpg" for i in range(12)]
    touch(folder / "facescrub", *(name for _, name in probes))
    touch(folder / "megaface", *distractors)
    listed = {"id": [s for s, _ in probes], "path": [name for _, name in probes]}
    first, second = folder / "facescrub_features_list.json", folder / "megaface.json_12_1"
    first.write_text(json.dumps(listed))
    second.write_text(json.dumps({"path": distractors}))
    return first, second, folder / "facescrub", folder / "megaface"


def cfp(folder):
    """Four subjects with two frontal and one profile image, two folds."""
    protocol, root = folder / "Protocol", folder
    frontal = [f"Data/Images/{s:03d}/frontal/{i:02d}.jpg" for s in range(4) for i in (1, 2)]
    profile = [f"Data/Images/{s:03d}/profile/01.jpg" for s in range(4)]
    touch(root, *frontal, *profile)
    for kind, names in (("F", frontal), ("P", profile)):
        lines = [f"{i} ../{name}" for i, name in enumerate(names, start=1)]
        write(protocol / f"Pair_list_{kind}.txt", *lines)
    for fold, subjects in (("01", (0, 1)), ("02", (2, 3))):
        a, b = subjects
        for kind, second in (("FP", lambda s: s + 1), ("FF", lambda s: 2 * s + 2)):
            split = protocol / "Split" / kind / fold
            write(split / "same.txt", *(f"{2 * s + 1},{second(s)}" for s in subjects))
            write(split / "diff.txt", f"{2 * a + 1},{second(b)}", f"{2 * b + 1},{second(a)}")
    return protocol / "Split" / "FP", root


def two_lines(folder):
    """CALFW's layout: six mated and six non-mated pairs."""
    names = {s: (f"{s}_0001.jpg", f"{s}_0002.jpg") for s in SUBJECTS}
    touch(folder / "aligned", *(name for pair in names.values() for name in pair))
    lines = []
    for i, subject in enumerate(SUBJECTS):
        other = names[SUBJECTS[(i + 1) % 6]]
        lines += [f"{names[subject][0]} 1", f"{names[subject][1]} 1"]
        lines += [f"{names[subject][0]} 0", f"{other[1]} 0"]
    return write(folder / "pairs_CALFW.txt", *lines), folder / "aligned"


def blufr(folder):
    """Six subjects with three images; two trials with two enrolled subjects each."""
    names = [f"{s}_{i:04d}.jpg" for s in SUBJECTS for i in (1, 2, 3)]
    touch(folder / "lfw", *(f"{name.rpartition('_')[0]}/{name}" for name in names))
    write(folder / "lists" / "image_list.txt", *names)
    everyone = " ".join(str(i) for i in range(1, 19))
    write(folder / "lists" / "test_set.txt", everyone, everyone)
    write(folder / "lists" / "gallery_set.txt", "1 4", "7 10")
    for number, gallery in enumerate(((1, 4), (7, 10))):
        rest = " ".join(str(i) for i in range(1, 19) if i not in gallery)
        mode = "w" if number == 0 else "a"
        with (folder / "lists" / "probe_set.txt").open(mode) as stream:
            stream.write(rest + "\n")
    return folder / "lists", folder / "lfw"
