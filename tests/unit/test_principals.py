from pathlib import Path

import pytest
from support.approvals import People, command, envelope

from agents.runtime.declarations import DeclarationError
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer, Principals, PrincipalsFromFile, load_principals
from agents.runtime.signing import SigningKey

HASH = "ab" * 32
PEOPLE = People(ann=("sre",), bob=())
ANNS = envelope(command("approve", "ann", HASH))
SIGNED = PEOPLE.keys["ann"].sign(ANNS)


def listing(**keys: SigningKey) -> str:
    people = [f"  {name}: {{keys: ['{key.public}']}}" for name, key in keys.items()]
    return "\n".join(["principals:", *people, ""])


def code_of(answer: Issuer | Refusal) -> str:
    assert isinstance(answer, Refusal)
    return answer.code


def test_a_signature_says_who_it_was_and_the_list_says_of_which_groups() -> None:
    assert PEOPLE.principals.identify(SIGNED) == Issuer("ann", ("sre",), is_signed=True)


def test_what_is_not_signed_is_from_nobody() -> None:
    assert code_of(PEOPLE.principals.identify(ANNS)) == "unsigned"
    assert code_of(Principals().identify(ANNS)) == "unsigned"


def test_who_signs_in_the_name_of_somebody_else_is_found_out() -> None:
    forged = PEOPLE.keys["bob"].sign(ANNS)
    assert code_of(PEOPLE.principals.identify(forged)) == "invalid_signature"


def test_a_name_that_is_not_on_the_list_is_unknown() -> None:
    mallory = SigningKey.generate().sign(envelope(command("approve", "mallory", HASH)))
    assert code_of(PEOPLE.principals.identify(mallory)) == "unknown_principal"
    assert code_of(Principals(trusts_unsigned=True).identify(mallory)) == "unknown_principal"


def test_where_the_topic_is_trusted_its_word_is_taken() -> None:
    trusting = Principals(PEOPLE.principals.by_name, trusts_unsigned=True)
    assert trusting.identify(ANNS) == Issuer("ann", ("sre",), is_signed=False)
    nobodys = envelope(command("approve", "mallory", HASH))
    assert code_of(trusting.identify(nobodys)) == "unknown_principal"
    assert Principals(trusts_unsigned=True).identify(nobodys) == Issuer("mallory", (), False)


def test_where_the_topic_is_trusted_a_wrong_signature_is_wrong_all_the_same() -> None:
    trusting = Principals(PEOPLE.principals.by_name, trusts_unsigned=True)
    assert code_of(trusting.identify(PEOPLE.keys["bob"].sign(ANNS))) == "invalid_signature"


def test_any_of_several_keys_may_have_signed(tmp_path: Path) -> None:
    old, new = SigningKey.generate(), SigningKey.generate()
    file = tmp_path / "principals.yaml"
    file.write_text(
        f"principals:\n  ann:\n    groups: [sre]\n    keys: ['{old.public}', '{new.public}']\n"
    )
    for key in (old, new):
        assert isinstance(load_principals(file).identify(key.sign(ANNS)), Issuer)


def test_no_file_means_that_nobody_is_known() -> None:
    known = PrincipalsFromFile(None)
    assert code_of(known.identify(SIGNED)) == "unknown_principal"
    assert code_of(known.identify(ANNS)) == "unsigned"
    trusting = PrincipalsFromFile(None, trusts_unsigned=True)
    assert isinstance(trusting.identify(ANNS), Issuer)


def test_a_key_that_is_taken_out_of_the_file_counts_no_more(tmp_path: Path) -> None:
    file = tmp_path / "principals.yaml"
    file.write_text(listing(ann=PEOPLE.keys["ann"]))
    known = PrincipalsFromFile(file)
    assert isinstance(known.identify(SIGNED), Issuer)
    file.write_text("principals: [this is no list of people]")
    assert isinstance(known.identify(SIGNED), Issuer), "what was read before stays"
    file.unlink()
    assert isinstance(known.identify(SIGNED), Issuer)
    file.write_text(listing(ann=SigningKey.generate(), bob=PEOPLE.keys["bob"]))
    assert code_of(known.identify(SIGNED)) == "invalid_signature"


def test_a_worker_does_not_start_on_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="it cannot be read"):
        PrincipalsFromFile(tmp_path / "nothing.yaml")


def test_every_problem_of_the_file_is_named_with_its_line(tmp_path: Path) -> None:
    key = SigningKey.generate().public
    file = tmp_path / "principals.yaml"
    file.write_text(
        f"""principals:
  ann:
    keys: ['{key}']
  bob:
    keys: ['{key}']
  ANN:
    keys: ['{SigningKey.generate().public}']
  carol:
    keys: [hunter2]
  dave:
    keys: []
"""
    )
    with pytest.raises(DeclarationError) as caught:
        load_principals(file)
    found = {problem.line: problem.wrong for problem in caught.value.problems}
    assert found[5] == "the key is ann's"
    assert "ann once more" in found[6]
    assert {9, 11} <= found.keys()
    assert "hunter2" not in str(caught.value), "somebody may have put a private key there"
