"""The composer: from a recipe over registered experts to a trained, extensible Nexus mixture-of-experts."""
