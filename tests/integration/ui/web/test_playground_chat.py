"""Chat in the playground: conversations next to each other, their settings, and refusals."""

from __future__ import annotations

import os
import shutil

import pytest
from pages import button, field, html, open_page, said
from streamlit.testing.v1 import AppTest

from registry.home import Registry


@pytest.fixture
def talking(mixes: Registry) -> None:
    """The app's home with mixes that can chat; request it before `app_registry`."""
    shutil.copytree(mixes.home, os.environ["NEXUSMIX_HOME"])


def chatting(**query: str) -> AppTest:
    """The playground in the form of a chat, for replies of at most eight tokens."""
    app = open_page("playground", **query)
    field(app, "Form").set_value("Chat").run()
    app.slider[1].set_value(8).run()
    assert not app.exception
    return app


def send(app: AppTest, message: str) -> None:
    """Send a message."""
    app.text_area(key="playground prompt").set_value(message).run()
    button(app, "Send").click().run()
    assert not app.exception


def test_a_conversation_goes_on_next_to_the_seeds_until_a_new_one(
    talking: None, app_registry: Registry
) -> None:
    app = chatting(mix="whole@1", beside="seed")
    app.text_area(key="playground system").set_value("Be <brief>.").run()
    send(app, "def the")
    assert app.text_area(key="playground prompt").value == ""
    send(app, "and law?")
    assert html(app).count("def the") == html(app).count("and law?") == 2
    assert app.session_state["writing"].earlier[0].prompt == "def the"
    button(app, "New conversation").click().run()
    assert "Generated text appears here" in html(app)


def test_a_refused_message_is_not_lost_and_not_in_the_conversation(
    talking: None, app_registry: Registry
) -> None:
    app = chatting(mix="merged@1")
    send(app, "")
    assert "Enter a message first" in said(app.error[0])
    send(app, "def")
    send(app, "x" * 300)
    assert "context is 256" in said(app.error[0])
    assert app.session_state["writing"].prompt == "def"
    assert app.run().text_area(key="playground prompt").value == "x" * 300


def test_a_mix_without_a_template_says_why_it_cannot_chat(mixed: Registry) -> None:
    app = chatting(mix="team@1")
    send(app, "court")
    assert "no chat template" in said(app.error[0])
