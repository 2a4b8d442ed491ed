"""No module needs itself, over however many others: also not by an import inside a function."""

from collections.abc import Iterator

import grimp

PRODUCT = ("flows", "connectors", "converters", "sealift", "sandbox")


def circles(graph: grimp.ImportGraph) -> Iterator[list[str]]:
    """A way back to itself for each module that has one."""
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if back := graph.find_shortest_chain(imported, module):
                yield [module, *back]


def test_no_module_imports_itself_over_others() -> None:
    graph = grimp.build_graph(*PRODUCT, exclude_type_checking_imports=True, cache_dir=None)
    assert len(graph.modules) > 300
    assert list(circles(graph)) == []


def test_a_circle_would_be_found() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        graph.add_import(importer=importer, imported=imported)
    assert [circle[0] for circle in circles(graph)] == ["a", "b", "c"]
