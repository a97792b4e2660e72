package tokens

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/berthhq/berth/tokens/api"
)

// OpenAPI returns the description of /v1 as YAML, made from the very operations that a
// service registers.
func OpenAPI() ([]byte, error) {
	config := huma.DefaultConfig("berth token service", "v1")
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.AllowAdditionalPropertiesByDefault = true // what a newer client sends besides is ignored
	config.CreateHooks = nil                         // no $schema links: the paths may stand under a prefix
	a := humago.New(http.NewServeMux(), config)
	for _, o := range new(Service).operations() {
		o.describe(a)
	}
	return a.OpenAPI().YAML()
}

// input is a request with a body, as a description has it.
type input struct{ RawBody []byte }

// output is a reply, as a description has it.
type output struct {
	Status      int
	ContentType string `header:"Content-Type"`
	RetryAfter  string `header:"Retry-After"`
	ETag        string `header:"ETag"`
	Cache       string `header:"Cache-Control"`
	Challenge   string `header:"WWW-Authenticate"`
	Body        []byte
}

// describe adds an operation to a description: a body of type In, a reply of type Out.
func describe[In, Out any](a huma.API, o operation) {
	op := huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Summary: o.summary,
		MaxBodyBytes: api.MaxBody, SkipValidateBody: true, Responses: responses[Out](a),
	}
	if o.org != "" {
		op.Parameters = []*huma.Param{{
			Name: "org", In: o.org, Required: o.org == "path", Description: "Organization",
			Schema: &huma.Schema{Type: huma.TypeString, Pattern: "^[a-z0-9_-]{1,64}$"},
		}}
	}
	if o.method == http.MethodGet {
		huma.Register(a, op, func(context.Context, *struct{}) (*output, error) { return nil, nil })
		return
	}
	op.RequestBody = &huma.RequestBody{Required: true, Content: content[In](a, contentJSON)}
	huma.Register(a, op, func(context.Context, *input) (*output, error) { return nil, nil })
}

func content[T any](a huma.API, contentType string) map[string]*huma.MediaType {
	schema := huma.SchemaFromType(a.OpenAPI().Components.Schemas, reflect.TypeFor[T]())
	return map[string]*huma.MediaType{contentType: {Schema: schema}}
}

// responses describes what an operation answers.
func responses[Out any](a huma.API) map[string]*huma.Response {
	good, status := &huma.Response{Description: "OK", Content: content[Out](a, contentJSON)}, "200"
	if reflect.TypeFor[Out]() == reflect.TypeFor[none]() {
		good, status = &huma.Response{Description: "Done"}, "204"
	}
	return map[string]*huma.Response{
		status:    good,
		"default": {Description: "A problem, with its code", Content: content[api.Problem](a, contentProblem)},
	}
}
