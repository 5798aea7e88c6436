import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import KeyMaterialError
from iom.keys import SubjectToken, TransformKey

secrets_32 = st.binary(min_size=32, max_size=32)
SECOND = "iom-key-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8:582af63b"


@given(secrets_32)
def test_there_and_back(secret):
    text = TransformKey(secret).to_text()
    assert TransformKey.from_text(text).secret == secret
    assert TransformKey.from_text(f"  {text}\n").secret == secret
    assert text.isascii()
    assert " " not in text


@given(secrets_32)
def test_a_token_there_and_back(secret):
    text = SubjectToken(secret).to_text()
    assert SubjectToken.from_text(f" {text}\n").secret == secret
    assert (len(text), text.isascii()) == (64, True)
    with pytest.raises(KeyMaterialError, match="not a stored key"):
        TransformKey.from_text(text)
    with pytest.raises(KeyMaterialError, match="not a stored token"):
        SubjectToken.from_text(TransformKey(secret).to_text())


def test_the_form_never_changes():
    assert TransformKey(bytes(range(32))).to_text() == SECOND
    assert TransformKey.from_text(SECOND).secret == bytes(range(32))


@given(secrets_32, st.data())
def test_any_changed_character_is_found(secret, data):
    text = TransformKey(secret).to_text()
    place = data.draw(st.integers(len("iom-key-1:"), len(text) - 1))
    other = data.draw(st.sampled_from("Aa0_-:é\n"))
    if text[place] == other:
        return
    with pytest.raises(KeyMaterialError):
        TransformKey.from_text(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize("end", range(len(SECOND)))
def test_any_truncated_text_is_found(end):
    with pytest.raises(KeyMaterialError, match=r"not a stored key|truncated or damaged"):
        TransformKey.from_text(SECOND[:end])


@pytest.mark.parametrize("version", [0, 2, 17])
def test_another_version(version):
    with pytest.raises(KeyMaterialError, match=f"version {version}: this program reads version 1"):
        TransformKey.from_text(SECOND.replace("iom-key-1", f"iom-key-{version}"))


@pytest.mark.parametrize("text", ["", "x", "iom-key-:", "iom-key-1", "key-1:a:b", None, 7, b"iom"])
def test_something_else(text):
    with pytest.raises(KeyMaterialError, match="not a stored key"):
        TransformKey.from_text(text)


def test_no_error_shows_the_secret():
    body = SECOND.split(":")[1]
    for text in (SECOND[:-1], SECOND.replace("key-1", "key-3"), f"{SECOND}:", f"x{SECOND}", body):
        with pytest.raises(KeyMaterialError) as caught:
            TransformKey.from_text(text)
        shown = str(caught.value)
        assert not any(body[i : i + 6] in shown for i in range(len(body) - 6))
        assert "582af63b" not in shown
