"""Operations that one leader decides: ``quorum`` is when it may, ``service`` is how it does."""
