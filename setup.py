"""Packaging: everything is read from settings.ini, so that a setting is written once."""
from configparser import ConfigParser
from pathlib import Path

import setuptools

HERE = Path(__file__).parent
LICENSES = {"mit": "MIT", "apache2": "Apache-2.0"}
STATUSES = ["1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable", "6 - Mature"]
NEEDED = "lib_name version description keywords author author_email user branch license status min_python audience git_url"


def read_settings():
    "The settings of the project; an error names the first one that is missing."
    parser = ConfigParser(delimiters=["="])
    parser.read(HERE / "settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    for name in NEEDED.split():
        assert name in cfg, f"settings.ini has no value for {name}"
    return cfg


def extras(cfg):
    "pip's extras: every key `NAME_requirements` gives the extra `NAME`."
    tail = "_requirements"
    return {key.removesuffix(tail): cfg[key].split() for key in cfg if key.endswith(tail)}


cfg = read_settings()
readme = HERE / "README.md"

setuptools.setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license=LICENSES[cfg["license"]],
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: " + STATUSES[int(cfg["status"]) - 1],
        "Framework :: Jupyter",
        "Intended Audience :: " + cfg["audience"],
        "Natural Language :: " + cfg["language"],
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=" + cfg["min_python"],
    packages=setuptools.find_packages(include=["neural_introspection", "neural_introspection.*"]),
    package_data={"neural_introspection": ["assets/**/*", "assets/*", "**/*.pyi", "*.pyi"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras(cfg),
    entry_points={
        "console_scripts": cfg.get("console_scripts", "").split(),
        "nbdev": [f'{cfg["lib_name"]}={cfg["lib_name"]}._modidx:d'],
    },
    zip_safe=False,
)
