"""Whatever a user writes, the kubelet's expansion gives it back unchanged."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kubernetes import kubelet
from tests.unit.kubernetes.test_launch import in_a_pod, read_run
from tests.unit.kubernetes.test_render import job_request

from kapstan.cluster.kubernetes import render

PIECES = st.sampled_from(["$", "$$", "(", ")", "$(", "KAPSTAN_SIGNING_KEY", "$(KAPSTAN_SIGNING_KEY)", "HOME", "a", "-"])
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(TEXTS)
def test_an_escaped_text_comes_out_as_it_went_in(text: str) -> None:
    assert kubelet.expand(render.literal(text), kubelet.SECRET) == text


@given(st.dictionaries(TEXTS, VALUES, max_size=4), TEXTS.filter(lambda key: "\0" not in key))
def test_parameters_and_their_key_reach_the_process_as_they_were_written(parameters: dict[str, Any], key: str) -> None:
    request = job_request(parameters=parameters, parameters_ref=key or None)
    launch = read_run(*in_a_pod(render.job(request)["spec"]["template"]["spec"]["containers"][0]))
    assert launch.parameters == parameters
    assert launch.parameters_ref == key
